"""`sesr-lab upscale` and `export`: what comes out of trained networks."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sesr_lab.cli.options import Json, ModelName, Store, model_prefix
from sesr_lab.cli.output import print_json
from sesr_lab.cli.stores import opened
from sesr_lab.cli.terminal import doing
from sesr_lab.errors import ConfigError

if TYPE_CHECKING:
    from sesr_lab.results.export import Delivered
    from sesr_lab.results.onnx_file import Exported
    from sesr_lab.targets.estimate import Size

_FORMATS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
_LEAST_TILE = 16
_ENGINES = ("auto", "openvino")


def upscale(
    images: Annotated[list[Path], typer.Argument(help="IMAGE|FOLDER …: pictures, and folders of pictures.")],
    model: Annotated[str, typer.Option("--model", help="MODEL: a preset, a run id, models:/…, or a file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder, or, for one picture, the file to write.")],
    scale: Annotated[int | None, typer.Option("--scale", help="2 or 4, if MODEL is a preset (2).")] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="png, jpeg, webp or tiff (each picture's own).")
    ] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of JPEG and WebP.")] = 95,
    tile: Annotated[
        int, typer.Option("--tile", min=0, help="Pixels of a tile's side; 0: no tiles, more memory.")
    ] = 256,
    engine: Annotated[str, typer.Option("--engine", help="auto (PyTorch) or openvino, if it is installed.")] = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Write a sheet beside it: bicubic | network.")] = False,
    original: Annotated[
        Path | None, typer.Option("--original", help="What it should be, or their folder: a third on the sheet.")
    ] = None,
    tracking_uri: Store = None,
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Upscale pictures: luma by the network, colour and alpha by bicubic."""
    if format is not None and format not in _FORMATS:
        raise ConfigError(f"upscale: --format: found {format!r}; allowed are {', '.join(_FORMATS)}")
    if scale not in (None, 2, 4):
        raise ConfigError(f"upscale: scale: found {scale}; 2 or 4 is allowed")
    if 0 < tile < _LEAST_TILE:
        raise ConfigError(f"upscale: --tile: found {tile}; allowed are 0 and {_LEAST_TILE} or more")
    if engine not in _ENGINES:
        raise ConfigError(f"upscale: --engine: found {engine!r}; allowed are {', '.join(_ENGINES)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait for each other and for colour do not spin
    with doing("loading PyTorch"):
        from sesr_lab.cli.progress import loading
        from sesr_lab.data.refusal import shown
        from sesr_lab.results.batch import Failed, Settings, upscale_files
        from sesr_lab.results.inference import network
        from sesr_lab.results.openvino_engine import openvino_network

    settings = Settings(
        suffix=_FORMATS[format] if format is not None else None,
        quality=quality,
        tile=tile,
        compare=compare or original is not None,
        originals=original,
    )
    found = network(
        model,
        scale=scale,
        open_tracker=lambda: opened(tracking_uri),
        prefix=model_prefix(model_name),
        make=openvino_network if engine == "openvino" else None,
    )

    def say(failure: Failed) -> None:
        print(f"error: {failure.input}: {failure.reason}", file=sys.stderr)

    with loading() as progress:
        written, failed = upscale_files(images, found, out=out, settings=settings, progress=progress, failed=say)
    if as_json:
        pictures = [asdict(item) for item in written]
        document = {"model": model, "scale": found.scale, "written": pictures, "failed": [asdict(f) for f in failed]}
        print_json(document)
    else:
        done = f"{len(written)} of {len(written) + len(failed)} pictures upscaled x{found.scale} to {shown(out)}"
        print(done + (f"; {len(failed)} failed, as said above" if failed else ""))
    if failed:
        raise typer.Exit(1)


def export(
    model: Annotated[str, typer.Argument(help="MODEL: a preset, a run id, models:/…, or a file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write: NAME.onnx or NAME.tflite.")],
    file_format: Annotated[
        str | None, typer.Option("--format", help="onnx or tflite, if the file's name does not say it.")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Convolutions in int8, calibrated on pictures.")] = False,
    size: Annotated[
        str | None, typer.Option("--input", help="For tflite: the picture that it takes, as in 640x360 (which it is).")
    ] = None,
    rgb: Annotated[bool, typer.Option("--rgb", help="Take and give RGB, chroma by bicubic in the graph.")] = False,
    benchmark: Annotated[
        list[Path] | None, typer.Option("--benchmark", help="A folder to measure int8's loss on; may be repeated.")
    ] = None,
    calibrate: Annotated[
        str, typer.Option("--calibrate", help="The data source that int8's ranges are taken from.")
    ] = "photos",
    scale: Annotated[int | None, typer.Option("--scale", help="2 or 4, if MODEL is a preset (2).")] = None,
    tracking_uri: Store = None,
    model_name: ModelName = "SESR",
    as_json: Json = False,
) -> None:
    """Write a network as ONNX, float or int8, or as the int8 TFLite file that an NPU runs; both checked."""
    if not int8 and benchmark:
        raise ConfigError("export: --benchmark measures what int8 loses; add --int8, or use sesr-lab evaluate")
    out, picture = _of_format(out, file_format), None if size is None else _size(size)
    with doing("loading PyTorch"):
        from sesr_lab.cli.progress import loading
        from sesr_lab.data.refusal import shown
        from sesr_lab.results.export import Form, export

    form = Form(int8=int8, rgb=rgb, calibration=calibrate, benchmarks=tuple(benchmark or ()), size=picture)
    with loading() as progress:
        done = export(
            model,
            out,
            form,
            scale=scale,
            open_tracker=lambda: opened(tracking_uri),
            prefix=model_prefix(model_name),
            progress=progress,
        )
    if as_json:
        print_json(_export_document(done))
        return
    file = done.file
    error = ""
    if file.max_error is not None:
        error = f"; {'its float form is' if int8 else 'at most'} {file.max_error:.0e} from PyTorch's result"
    print(f"{shown(done.path)}: {len(file.content) / 1000:.1f} kB{error}")
    if file.losses:
        from sesr_lab.cli.tables import show_losses

        show_losses(file.losses)
    print(f"input: {_input_of(file)}")
    if done.artifact is not None:
        print(f"kept with the run {done.run_id} as {done.artifact}")


def _input_of(file: Exported) -> str:
    """What the file takes, in words."""
    if file.size is not None:
        return f"int8 (1, {file.size.height}, {file.size.width}, 1), luma (BT.601, 16 to 235; grey as it is) - 128"
    colours = "RGB / 255" if file.colours == 3 else "luma / 255 (BT.601, 16 to 235; grey as it is)"
    return f"float32 (N, {file.colours}, H, W), {colours}{', rounded to 1/255 inside' if file.is_int8 else ''}"


def _of_format(out: Path, file_format: str | None) -> Path:
    """The file to write: named as it is, or with the ending of its format where it has none.

    Raises:
        ConfigError: there is no such format, or the file's name is of another.
    """
    if file_format is None:
        return out
    if file_format not in ("onnx", "tflite"):
        raise ConfigError(f"export: --format: {file_format!r} is unknown; allowed: onnx, tflite")
    named = out.with_name(f"{out.name}.{file_format}") if not out.suffix else out
    if named.suffix.lower() != f".{file_format}":
        raise ConfigError(f"export: --format: found {file_format} and the name {out.name}; let them say the same")
    return named


def _size(text: str) -> Size:
    from sesr_lab.targets.estimate import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"export: --input: {error}") from None


def _export_document(done: Delivered) -> dict[str, object]:
    file = done.file
    return {
        "file": str(done.path),
        "bytes": len(file.content),
        "scale": file.scale,
        "colours": file.colours,
        "int8": file.is_int8,
        "input": None if file.size is None else str(file.size),
        "max_error": file.max_error,
        "losses": [asdict(x) | {"loss_db": x.loss_db, "loss_8bit_db": x.loss_8bit_db} for x in file.losses],
        "run_id": done.run_id,
        "artifact": done.artifact,
    }
