"""A headless Chromium, driven through its pipe: what a page shows, and what it looks like."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PATIENCE_S = 60.0
_TEXT = """(() => {
    if (!document.body) return "";
    const texts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode())
        if (!walker.currentNode.parentNode.matches("script, style")) texts.push(walker.currentNode.nodeValue);
    return texts.join(" ").replace(/\\s+/g, " ");
})()"""


class Browser:
    """One window with one page at a time."""

    def __init__(self, reads: int, writes: int) -> None:
        self._from, self._to = os.fdopen(reads, "rb"), os.fdopen(writes, "wb")
        self._count, self._target, self._session = 0, "", ""

    def visit(self, address: str, *, width: int = 1800, height: int = 2400) -> None:
        """Opens a page in place of the one before."""
        if self._target:
            self._ask("Target.closeTarget", targetId=self._target)
        self._session = ""
        self._target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.bringToFront")
        self._ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """What JavaScript comes to in the page."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def see(self, *parts: str) -> str:
        """The page's text once all of these stand in it; where they never do, a failed test says which are missing."""
        end = time.monotonic() + PATIENCE_S
        while True:
            shown = str(self.run(_TEXT))
            missing = [part for part in parts if part not in shown]
            if not missing:
                return shown
            assert time.monotonic() < end, f"the page does not show {missing}: {shown[:2000]}"
            time.sleep(0.2)

    def until(self, script: str) -> Any:
        """What a script comes to, once that is something."""
        end = time.monotonic() + PATIENCE_S
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"the page never has {script}"
            time.sleep(0.2)
        return found

    def photograph(self, to: Path, **clip: float) -> Path:
        """The window as a PNG at `to`, or the part of it from x and y, of a width and height."""
        part = {"clip": {**clip, "scale": 1}} if clip else {}
        to.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", **part)["data"]))
        return to

    def _ask(self, method: str, **params: object) -> Any:
        self._count += 1
        session = {"sessionId": self._session} if self._session and not method.startswith("Target.") else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._next()).get("id") != self._count:
            pass  # events, which nobody has asked for
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _next(self) -> dict[str, Any]:
        text = bytearray()
        while (letter := self._from.read(1)) != b"\0":
            assert letter, "Chromium has ended"
            text += letter
        answer: dict[str, Any] = json.loads(text)
        return answer


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser for as long as it is needed."""
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    options = f"--headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir='{profile}'"
    command = f"exec '{CHROMIUM}' {options} --remote-debugging-pipe 3<&{theirs_in} 4>&{theirs_out}"
    quiet = subprocess.DEVNULL
    child = subprocess.Popen(["bash", "-c", command], pass_fds=(theirs_in, theirs_out), stdout=quiet, stderr=quiet)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_in, ours_out)
    finally:
        child.terminate()
        child.wait(30)
