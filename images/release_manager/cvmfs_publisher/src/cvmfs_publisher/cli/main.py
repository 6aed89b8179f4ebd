# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server``: finds the subcommand, calls it, and turns errors into messages and exit codes.

Exit codes are upstream's: 0 done, 1 failed, 2 no command given, 3 wrong use. ``transaction`` alone has more, see there.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import PublisherError
from .arguments import WRONG_USE, build_parser
from .commands import COMMANDS
from .refused import refusal

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a file may end in an error of encoding
    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand.

    :param arguments: the command line without the program's name
    :return: the exit code
    """
    parser = build_parser(COMMANDS)
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    refused = refusal(arguments[0])
    if refused is not None and arguments[0] not in COMMANDS:
        print(refused, file=sys.stderr)
        return WRONG_USE
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except PublisherError as error:
        print(f"cvmfs_server {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"cvmfs_server {options.command}: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone; give Python's own flush at exit nothing left to complain about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def interrupt(*_: object) -> NoReturn:
    """Clean up on SIGTERM, which stopped containers get, as on a keyboard's interrupt."""
    raise KeyboardInterrupt
