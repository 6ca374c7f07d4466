"""The README's promises that a machine can check."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import sesr_lab
from sesr_lab.cli.app import app, run
from sesr_lab.study.files import built_in
from sesr_lab.study.space import SEARCHABLE
from sesr_lab.study.spec import Confirm, Pruning, StudySpec

ROOT = Path(sesr_lab.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "reference-code.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
ROOMS = sorted(path.parent.name for path in (ROOT / "sesr_lab").glob("*/__init__.py"))
OURS = re.findall(r"^\| `python train\.py[^`]*` \| `sesr-lab ([^`]*)` \|$", REFERENCE, re.MULTILINE)


def test_every_room_stands_in_the_readme_once() -> None:
    assert sorted(re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)) == ROOMS


def test_every_command_of_the_readme_exists() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # a group has them
    assert set(re.findall(r"[`$] ?sesr-lab ([a-z]+)", README)) <= commands


def test_every_built_in_study_is_described() -> None:
    described, _, _ = STUDIES.partition("```")
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", described, re.MULTILINE)) == set(built_in())


def test_every_key_of_a_study_is_described() -> None:
    keys = {*StudySpec.model_fields, *Pruning.model_fields, *Confirm.model_fields, *SEARCHABLE}
    assert {key for key in keys if re.search(rf"[`\[ \n]{key}[`\] ]", STUDIES) is None} == set()


def test_the_table_has_each_command_of_the_reference() -> None:
    assert len(OURS) == 8


@pytest.mark.parametrize("words", OURS)
def test_a_command_beside_one_of_the_reference_is_understood(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*shlex.split(words), "--device", "abacus"]) == 1, "settings are checked before the device is"
    assert "error: --device: 'abacus' cannot be used here" in capsys.readouterr().err


def test_the_readme_is_read_in_three_screens() -> None:
    assert len(README.splitlines()) <= 150


def test_what_the_documents_link_to_exists() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
