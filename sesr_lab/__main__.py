"""`python -m sesr_lab`, and the `sesr-lab` script."""

import sys


def main() -> None:
    """Runs the command line and exits with its status."""
    from sesr_lab.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
