"""The tools of the targets: optional packages, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from sesr_lab.errors import TargetError

EXTRA = "pip install 'sesr-lab[targets]'"


def tool(module: str, package: str) -> ModuleType:
    """The module called `module`, of the package that pip knows as `package`.

    Raises:
        TargetError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or " "):
            raise TargetError(f"{package} cannot be used ({error}); {EXTRA}") from error
        raise TargetError(f"{package} is not installed; {EXTRA}") from None
    except ImportError as error:
        raise TargetError(f"{package} cannot be used ({error}); {EXTRA}") from error


def version_of(package: str) -> str:
    """The version of the installed `package`.

    Raises:
        TargetError: it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        raise TargetError(f"{package} is not installed; {EXTRA}") from None
