"""The command line: every failure is one sentence on stderr and an exit code."""

from __future__ import annotations

import shlex
import sys

from typer.exceptions import TyperException

from paring.cli.app import app
from paring.errors import ParingError

INTERRUPTED = 130


def main() -> None:
    """Run the command line. 0 done, 2 bad input, 3 infeasible, 130 interrupted."""
    try:
        # Not standalone, or mistakes of usage would be drawn as a box; the answer is the code of a command's `Exit`,
        # and INTERRUPTED where a command was.
        code = app(standalone_mode=False)
    except TyperException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        typed = shlex.join(["paring", *sys.argv[1:]])
        print(f"paring: {message}: `{typed}` can't be run, add --help to see what it takes.", file=sys.stderr)
        code = error.exit_code
    except ParingError as error:
        print(f"paring: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        # What a search has saved, and how it goes on, it has said itself.
        print("paring: interrupted.", file=sys.stderr)
    sys.exit(code)
