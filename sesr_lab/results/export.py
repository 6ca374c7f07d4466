"""`sesr-lab export`: a network that the user names, as a file for other machines, kept with the run that trained it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sesr_lab.data import Progress
from sesr_lab.data.dataset import load
from sesr_lab.data.pair import Sample
from sesr_lab.data.refusal import shown
from sesr_lab.errors import ConfigError, ExportError, SesrError
from sesr_lab.registry.lookup import Named, find, is_file, of_file
from sesr_lab.results.onnx_file import Exported, float_file, int8_file
from sesr_lab.results.tflite_file import tflite_file
from sesr_lab.scores.evaluate import benchmark
from sesr_lab.targets.estimate import INPUT, Size, parse_size
from sesr_lab.tracking.runs import Tracker

_log = logging.getLogger(__name__)
SUFFIXES: Final = (".onnx", ".tflite")
ARTIFACTS = "export"
"""Where exported files lie among a run's artifacts."""


@dataclass(frozen=True)
class Form:
    """What kind of file is asked for."""

    int8: bool = False
    rgb: bool = False
    """Whether it takes and gives RGB, chroma included."""
    calibration: str = "photos"
    """For int8: the data source whose validation pictures tell the ranges of activations."""
    benchmarks: tuple[Path, ...] = ()
    """For int8: folders on which the loss is measured; the calibration source's pictures if there are none."""
    size: Size | None = None
    """For TFLite, whose files are for one size: that of the low-resolution picture; INPUT if not given."""


@dataclass(frozen=True)
class Delivered:
    """A file that was written."""

    path: Path
    file: Exported
    run_id: str | None
    """The run that the file is an artifact of; None for a network that no run has published."""
    artifact: str | None
    """Its path among that run's artifacts."""


def export(
    model: str,
    path: Path,
    form: Form,
    *,
    scale: int | None,
    open_tracker: Callable[[], Tracker],
    prefix: str = "sesr",
    progress: Progress | None = None,
) -> Delivered:
    """The network that MODEL names, written to `path`.

    Args:
        open_tracker: opens the store; not called where MODEL is a file.

    Raises:
        ConfigError: `path` has another suffix than one of SUFFIXES, or one that does not go with the form.
        ExportError: a package is missing, the file would not do what the network does, or cannot be written.
        SesrError: the model or a picture cannot be found or read.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{shown(path)}: found the suffix {path.suffix!r}; {' or '.join(SUFFIXES)} is allowed")
    is_tflite = path.suffix.lower() == ".tflite"
    _check_form(form, path, is_tflite=is_tflite)
    tracker = None if is_file(model) else open_tracker()
    named = of_file(model) if tracker is None else find(tracker, model, scale=scale, prefix=prefix)
    if scale not in (None, named.architecture.scale):
        raise ConfigError(f"{model}: its scale is {named.architecture.scale}, not {scale}; leave --scale out")
    made = _int8(named, form, progress, is_tflite=is_tflite) if form.int8 else float_file(named, rgb=form.rgb)
    _write(made.content, path)
    if tracker is None or named.version is None or not named.version.run_id:
        return Delivered(path, made, None, None)
    artifact = f"{ARTIFACTS}/{path.name}"
    try:
        with tracker.adding_to(tracker.run(named.version.run_id).key) as log:
            log.log_file(made.content, artifact)
    except SesrError as error:
        _log.warning("%s is written, but not kept with the run that trained the network: %s", shown(path), error)
        return Delivered(path, made, None, None)
    tracker.flush()
    return Delivered(path, made, named.version.run_id, artifact)


def _check_form(form: Form, path: Path, *, is_tflite: bool) -> None:
    if is_tflite and not form.int8:
        raise ConfigError(f"{shown(path)}: a TFLite file is written in int8 alone; add --int8")
    if is_tflite and form.rgb:
        raise ConfigError(f"{shown(path)}: a TFLite file takes and gives luma alone; leave --rgb out")
    if not is_tflite and form.size is not None:
        raise ConfigError(f"{shown(path)}: an ONNX file takes pictures of any size; leave --input out")


def _int8(named: Named, form: Form, progress: Progress | None, *, is_tflite: bool) -> Exported:
    scale = named.architecture.scale
    held_out = load(form.calibration, scale=scale, progress=progress).valid
    sets = [benchmark(folder, scale) for folder in form.benchmarks]
    measured: Sequence[tuple[str, Sequence[Sample]]] = [(each.name, each) for each in sets]
    measured = measured or [(form.calibration, held_out)]
    calibration = [sample.lr for sample in held_out]
    if is_tflite:
        return tflite_file(named, calibration, measured, size=form.size or parse_size(INPUT))
    return int8_file(named, calibration, measured, rgb=form.rgb)


def _write(content: bytes, path: Path) -> None:
    """Leaves the whole file at `path`, or what was there before; ExportError where it cannot be written."""
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written ({error.strerror or error}); choose another -o") from error
    finally:
        unfinished.unlink(missing_ok=True)
