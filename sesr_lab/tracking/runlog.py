"""What one run leaves behind: numbers, pictures, files, lineage, models, and how it ended."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sesr_lab.errors import StoreError
from sesr_lab.tracking.journal import Journals, Writer, unwritable
from sesr_lab.tracking.outgoing import Story
from sesr_lab.tracking.publication import Publication
from sesr_lab.tracking.secrets import hide

logger = logging.getLogger(__name__)

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Context = Literal["training", "validation", "testing"]


class RunLog:
    """Writes to one run's journal; it never raises because of a store, and never waits for one.

    Its methods raise a StoreError where this machine's disk does not take what is written.
    """

    def __init__(
        self,
        key: str,
        journals: Journals,
        writer: Writer,
        *,
        earlier: Story | None = None,
        logs_again: bool = False,
        tell: Callable[[], None],
    ) -> None:
        """A run that `writer` writes to.

        Args:
            earlier: what is known here of its earlier lives.
            logs_again: whether their numbers may be missing in the store, so that they are written again; steps that
                the store has are not sent again.
            tell: called whenever something was written.
        """
        self.key = key
        earlier = earlier or Story()
        self.is_new = not earlier.begin
        """Whether this machine knows of no earlier life of this run."""
        self.logged_until = earlier.last_step
        """The last step that an earlier life of this run is known to have logged; -1 for a new run."""
        self._done = Story() if logs_again else earlier
        """What need not be logged again."""
        self._journals, self._writer, self._tell = journals, writer, tell

    def log_metrics(self, metrics: Mapping[str, float], step: int, *, time_ms: int | None = None) -> None:
        """One point for each metric, as one batch, of now or of an earlier time in ms since 1970.

        Steps that a reopened run has logged before are skipped. What is not finite is stored as NaN, which the
        UI leaves out; MLflow would plot infinity as 1.8e308.
        """
        if step <= self._done.last_step or not metrics:
            return
        values = {key: float(value) if math.isfinite(value) else math.nan for key, value in metrics.items()}
        self._append("metrics", {"values": values, "step": step, "time_ms": time_ms or now_ms()})

    def log_constants(self, values: Mapping[str, float]) -> None:
        """Numbers known from the start (costs), as metrics at step 0: the UI sorts and plots metrics, not params."""
        self.log_metrics(values, 0)

    def log_result(self, metrics: Mapping[str, float], step: int) -> int:
        """What the run has come to, at a step that may be before its last; when that was logged first, in ms."""
        earlier = self._done.result
        if earlier and earlier["step"] == step:
            return earlier["time_ms"]
        time_ms = now_ms()
        self._append("metrics", {"values": dict(metrics), "step": step, "time_ms": time_ms, "is_result": True})
        return time_ms

    def log_params(self, params: Mapping[str, object]) -> None:
        """Settings, as text; a param that has a value keeps it."""
        if params:
            self._append("params", {"values": {key: hide(str(value)) for key, value in params.items()}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags, the last value of each."""
        if tags:
            self._append("tags", {"values": {key: hide(str(value)) for key, value in tags.items()}})

    def log_picture(self, key: str, picture: NDArray[np.uint8], *, step: int) -> None:
        """A picture (H, W, 3) or (H, W); the UI shows those of one `key` with a slider over the steps.

        A step that a reopened run has a picture of is skipped.
        """
        from PIL import Image

        if step <= self._done.pictured.get(key, -1):
            return
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG", compress_level=1)  # training waits for this one
        self._append("picture", {"key": key, "step": step, "time_ms": now_ms()}, png.getvalue())

    def describe_experiment(self, tags: Mapping[str, str]) -> None:
        """Tags of the experiment that the run is in, the last value of each."""
        self._append("experiment", {"values": {key: hide(value) for key, value in tags.items()}})

    def log_file(self, content: Path | bytes, path: str) -> None:
        """A file at `path` among the run's artifacts, as in `logs/traceback.txt`.

        Raises:
            OSError: `content` is a file that cannot be read.
        """
        blob = content.read_bytes() if isinstance(content, Path) else content
        self._append("file", {"path": path}, blob)

    def log_dataset(
        self, name: str, source: str, *, digest: str, profile: Mapping[str, object], context: Context
    ) -> None:
        """The data that the run used; `source` is a URL, `hub:REPO`, or where it lies; `profile` is shown in the UI."""
        source_type, location = _dataset_source(hide(source))
        content = {
            "name": hide(name),
            "digest": digest[:36],  # the width of MLflow's column
            "source_type": source_type,
            "source": json.dumps(location),
            "profile": json.dumps(dict(profile)),
            "context": context,
        }
        self._append("dataset", content)

    def log_model_input(self, model_id: str) -> None:
        """The model (`m-…`) that the run started from; the UI links it."""
        self._append("model_input", {"model_id": model_id})

    def publish(self, publication: Publication) -> None:
        """A version of a registered model, of files among this run's artifacts; the same again changes nothing."""
        self._append("publish", publication.content())

    def publish_kept(self, path: str) -> None:
        """The publication that was kept as JSON at `path` among the run's artifacts."""
        self._append("publish", {"kept": path})

    def end(self, status: EndStatus, reason: str = "") -> None:
        """Ends the run, `reason` in the tag `sesr.end`, and lets it go. Ends once."""
        if self._writer.is_closed:
            return
        try:
            if reason:
                self.set_tags({"sesr.end": reason})
            self._append("end", {"status": status, "reason": reason, "time_ms": now_ms()})
        finally:
            self.let_go()

    def break_off(self, status: EndStatus, reason: str) -> None:
        """Ends the run because something else has failed; where the disk is full too, the next start ends it."""
        with suppress(StoreError):
            self.end(status, reason)

    def let_go(self) -> None:
        """Leaves the run as it is: what is written from here on is not kept."""
        self._writer.close()
        self._tell()

    def _append(self, kind: str, content: Mapping[str, Any], blob: bytes | None = None) -> None:
        if self._writer.is_closed:
            logger.debug("run %s is over: its %s is not kept", self.key, kind)
            return
        if blob is not None and not self._journals.has_room_for(len(blob)):
            logger.warning("lost %s of run %s: too much waits for the store", kind, self.key)
            return
        try:
            self._writer.append(kind, content, blob)
        except OSError as error:
            raise unwritable(self._journals.folder, error) from error
        self._tell()


def _dataset_source(source: str) -> tuple[str, dict[str, str]]:
    """MLflow's type of the source, and its fields for that type."""
    if source.startswith(("http://", "https://")):
        return "http", {"url": source}
    if source.startswith("hub:"):
        return "hugging_face", {"path": source.removeprefix("hub:")}
    return "local", {"uri": source}


def now_ms() -> int:
    """The time in milliseconds since 1970, as MLflow keeps it."""
    return time.time_ns() // 1_000_000
