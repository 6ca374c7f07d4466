"""sesr-lab: sweeps of super-efficient super-resolution networks, tracked in MLflow."""

__version__ = "0.1.0"
