"""What one run leaves behind: numbers, pictures, files, lineage, and how it ended."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sesr_lab.tracking.spool import Kind, Outbox, Write

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]
Context = Literal["training", "validation", "testing"]

END_PATIENCE_S = 5.0
"""How long the end of a run waits for a store that does not answer; what is left then stays in the spool."""


class RunLog:
    """Writes to one run. A store that fails delays what is written here; it never raises, and never stops training."""

    def __init__(
        self, outbox: Outbox, *, run_id: str, experiment_id: str, url: str = "", logged_until: int = -1
    ) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self.url = url
        """The run's page in the UI; empty unless the store is a server."""
        self.logged_until = logged_until
        """The last step that an earlier life of this run has logged; -1 for a new run."""
        self._outbox = outbox
        self._ended = False

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One point for each metric, as one batch.

        Steps that a reopened run has logged before are skipped. What is not finite is stored as NaN, which the
        UI leaves out; MLflow would plot infinity as 1.8e308.
        """
        if step <= self.logged_until or not metrics:
            return
        values = {key: float(value) if math.isfinite(value) else math.nan for key, value in metrics.items()}
        self._send("metrics", {"values": values, "step": step, "time_ms": _now_ms()})

    def log_constants(self, values: Mapping[str, float]) -> None:
        """Numbers known from the start (costs), as metrics at step 0: the UI sorts and plots metrics, not params."""
        self.log_metrics(values, 0)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Settings, as text; a param that has a value keeps it."""
        if params:
            self._send("params", {"values": {key: str(value) for key, value in params.items()}})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags, the last value of each."""
        if tags:
            self._send("tags", {"values": {key: str(value) for key, value in tags.items()}})

    def log_picture(self, key: str, picture: NDArray[np.uint8], *, step: int) -> None:
        """A picture (H, W, 3) or (H, W); the UI shows those of one `key` with a slider over the steps."""
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        self._send("picture", {"key": key, "step": step, "time_ms": _now_ms()}, png.getvalue())

    def log_file(self, content: Path | bytes, path: str) -> None:
        """A file at `path` among the run's artifacts, as in `logs/traceback.txt`.

        Raises:
            OSError: `content` is a file that cannot be read.
        """
        blob = content.read_bytes() if isinstance(content, Path) else content
        self._send("file", {"path": path}, blob)

    def log_dataset(
        self, name: str, source: str, *, digest: str, profile: Mapping[str, object], context: Context
    ) -> None:
        """The data that the run used; `source` is a URL, `hub:REPO`, or where it lies; `profile` is shown in the UI."""
        source_type, location = _dataset_source(source)
        content = {
            "name": name,
            "digest": digest[:36],  # the width of MLflow's column
            "source_type": source_type,
            "source": json.dumps(location),
            "profile": json.dumps(dict(profile)),
            "context": context,
        }
        self._send("dataset", content)

    def log_model_input(self, model_id: str) -> None:
        """The model (`m-…`) that the run started from; the UI links it."""
        self._send("model_input", {"model_id": model_id})

    def end(self, status: EndStatus, reason: str = "") -> int:
        """Ends the run, `reason` in the tag `sesr.end`; how many writes still wait for the store. Ends once."""
        if not self._ended:
            self._ended = True
            if reason:
                self.set_tags({"sesr.end": reason})
            self._send("end", {"status": status, "time_ms": _now_ms()})
        return self._outbox.flush(patience_s=END_PATIENCE_S)

    def _send(self, kind: Kind, content: dict[str, Any], blob: bytes = b"") -> None:
        self._outbox.send(Write(self.run_id, kind, content, blob))


def _dataset_source(source: str) -> tuple[str, dict[str, str]]:
    """MLflow's type of the source, and its fields for that type."""
    if source.startswith(("http://", "https://")):
        return "http", {"url": source}
    if source.startswith("hub:"):
        return "hugging_face", {"path": source.removeprefix("hub:")}
    return "local", {"uri": source}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
