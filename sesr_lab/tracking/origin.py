"""What made a run: the code, the versions, the machine."""

from __future__ import annotations

import getpass
import platform
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sesr_lab import __version__


@cache
def origin() -> dict[str, str]:
    """Tags that say what made a run: the git commit, versions, host, and what the UI shows as user and source."""
    commit = _git_commit(Path.cwd()) or _git_commit(Path(__file__).parent)
    return {
        "sesr.git": commit,
        "sesr.version": __version__,
        "sesr.torch": _version("torch"),
        "sesr.mlflow": _version("mlflow"),
        "sesr.python": platform.python_version(),
        "sesr.host": socket.gethostname(),
        "mlflow.user": _user(),
        "mlflow.source.name": "sesr-lab",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
    }


def _git_commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return ""
