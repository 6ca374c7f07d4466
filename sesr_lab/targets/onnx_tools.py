"""The packages of the extra `export`, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from sesr_lab.errors import ExportError

_EXTRA = "pip install 'sesr-lab[export]'"


def onnx_package() -> ModuleType:
    """The package onnx, its helpers imported.

    Raises:
        ExportError: it is not installed, or cannot be imported.
    """
    for part in ("onnx.helper", "onnx.numpy_helper", "onnx.checker"):
        _import(part)
    return _import("onnx")


def onnxruntime_package() -> ModuleType:
    """The package onnxruntime.

    Raises:
        ExportError: it is not installed, or cannot be imported.
    """
    return _import("onnxruntime")


def _import(module: str) -> ModuleType:
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise ExportError(f"{package} cannot be used ({error}); {_EXTRA}") from error
        raise ExportError(f"{package} is not installed; {_EXTRA}") from None
    except ImportError as error:
        raise ExportError(f"{package} cannot be used ({error}); {_EXTRA}") from error
