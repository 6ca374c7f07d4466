"""What makes a registered network one of MLflow's own models: `load_model` and `mlflow models serve` run it.

All of it is text, written here: MLflow would import the model, run it and look for what it needs, which takes it
longer than the network's own files, and it would put this machine's paths into the result. Nothing is pickled.
"""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from sesr_lab.registry.weights import COLLAPSED

REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "torch")
"""What `upscaler.py` imports."""
_CODE = "upscaler.py"
_EXAMPLE_SIDE = 16


def pyfunc_files(time_ms: int) -> Mapping[str, str]:
    """The files, by name, that let MLflow run the collapsed network beside them; `time_ms` is when it was made."""
    example = {"columns": ["image"], "data": [[_example()]]}
    return {
        "MLmodel": _mlmodel(datetime.fromtimestamp(time_ms / 1000, UTC)),
        _CODE: Path(__file__).with_name(_CODE).read_text(encoding="utf-8"),
        "requirements.txt": "".join(f"{line}\n" for line in pinned()),
        "python_env.yaml": f"python: {_python()}\nbuild_dependencies: [pip]\ndependencies: [-r requirements.txt]\n",
        "conda.yaml": _conda(),
        "input_example.json": json.dumps(example),
        "serving_input_example.json": json.dumps({"dataframe_split": example}),
    }


@cache
def pinned() -> tuple[str, ...]:
    """The requirements, each with the version that is installed here, as any index has it."""
    return tuple(f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS)


def _mlmodel(made: datetime) -> str:
    """Paths in it are relative to the model's folder."""
    return f"""\
flavors:
  python_function:
    artifacts:
      weights:
        path: {COLLAPSED}
        uri: {COLLAPSED}
    code: null
    env:
      conda: conda.yaml
      virtualenv: python_env.yaml
    loader_module: mlflow.pyfunc.loaders.code_model
    model_code_path: {_CODE}
    python_version: {_python()}
    streamable: false
is_signature_from_type_hint: false
mlflow_version: {version("mlflow")}
model_uuid: {uuid4().hex}
saved_input_example_info:
  artifact_path: input_example.json
  pandas_orient: split
  serving_input_path: serving_input_example.json
  type: dataframe
signature:
  inputs: '[{{"type": "binary", "name": "image", "required": true}}]'
  outputs: '[{{"type": "string", "name": "image", "required": true}}]'
  params: null
utc_time_created: '{made:%Y-%m-%d %H:%M:%S.%f}'
"""


def _conda() -> str:
    lines = "".join(f"  - {line}\n" for line in pinned())
    return f"name: sesr\nchannels: [conda-forge]\ndependencies:\n- python={_python()}\n- pip\n- pip:\n{lines}"


def _python() -> str:
    return platform.python_version()


@cache
def _example() -> str:
    """A small picture, as base64 of a PNG file."""
    ramp = np.linspace(0, 255, _EXAMPLE_SIDE)
    red, green = np.meshgrid(ramp, ramp)
    file = io.BytesIO()
    Image.fromarray(np.stack([red, green, 255 - red], axis=2).astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
