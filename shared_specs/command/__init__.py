"""The program `xent`; docs/command_line.md shows its commands."""

import sys


def main() -> None:
    """Run `xent` with the arguments of the process."""
    try:
        from shared_specs.command.program import program
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        print('xent: click is not installed: pip install click, or the extra "cli"', file=sys.stderr)
        sys.exit(2)
    program(prog_name="xent")
