"""`python -m sesr_lab`, and the `sesr-lab` script."""

import sys


def main() -> None:
    """Runs the command line and exits with its status."""
    from sesr_lab.cli import terminal

    terminal.take_over()
    from sesr_lab.cli.app import run

    status = run()
    if (reason := terminal.result_was_lost()) is not None:
        print(f"error: standard output: {reason}; what was done stays done", file=sys.stderr)
        status = status or 1
    sys.exit(status)


if __name__ == "__main__":
    main()
