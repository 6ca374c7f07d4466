"""sesr-lab: sweeps of super-efficient super-resolution networks, tracked in MLflow."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sesr-lab")
except PackageNotFoundError:  # run from a checkout that was never installed (a bare GPU machine)
    __version__ = "0+uninstalled"
