"""Where the `openzaya` command and `python -m openzaya` begin."""

import sys

from openzaya.cli.interrupts import ctrl_c, end_at_once


def main() -> int:
    """Run the command line; return its exit code."""
    with ctrl_c(end_at_once):
        from openzaya.cli.main import main as command_line

        return command_line()


if __name__ == "__main__":
    sys.exit(main())
