"""Command lines, run in the tests' own process, and outcomes to show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sesr_lab.cli.app import run
from sesr_lab.trials.outcome import Outcome


class Typed:
    """Runs command lines in this process, and keeps what they said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: object) -> int:
        self.capsys.readouterr()
        status = run([str(word) for word in words])
        self.out, self.err = self.capsys.readouterr()
        return status

    def json(self, *words: object) -> Any:
        """The one document on standard output."""
        assert self(*words, "--json") == 0, self.err
        return json.loads(self.out)

    def error(self, *words: object) -> str:
        """The one line that says what the user did wrong, without `error: `."""
        assert self(*words) == 1, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return line.removeprefix("error: ")


def outcomes(count: int = 3) -> list[Outcome]:
    """Trained networks, each a dB better than the one before."""
    return [
        Outcome(
            label=f"t{number:04d}-m11-f16-p64",
            network="m11-f16-p64-collapsed",
            scale=2,
            settings={},
            result="finished",
            reason="",
            run_id="",
            params=27_344,
            macs_720p=6_300_000_000,
            steps=12_345,
            seconds=15.0,
            psnr=34.04 + number,
            ssim=0.9252,
            final_psnr=34.0,
            bicubic_psnr=32.19,
        )
        for number in range(count)
    ]
