# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server``: finds the subcommand, calls it, and turns errors into messages and exit codes.

Exit codes are upstream's: 0 done, 1 failed, 2 no command given, 3 wrong use. ``transaction`` alone has more, see there.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from ..errors import PublisherError
from .arguments import WRONG_USE, build_parser
from .commands import COMMANDS
from .refused import refusal

INTERRUPTED = 130
_HASTE = 2.0  # seconds in which a signal that comes again is the same wish


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name of a file may end in an error of encoding
    handle_interruptions("cvmfs_server")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one subcommand.

    :param arguments: the command line without the program's name
    :return: the exit code
    """
    if not arguments:
        build_parser(COMMANDS).print_help(sys.stderr)
        return 2
    name = arguments[0]
    refused = refusal(name)
    if refused is not None and name not in COMMANDS:
        print(refused, file=sys.stderr)
        return WRONG_USE
    parser = build_parser({name: COMMANDS[name]} if name in COMMANDS else COMMANDS)
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
        drop_output()  # its reader has gone
        return 1
    except OSError as error:
        # Where more is known about it, it has become another error; this is for what nobody has thought of
        what = f"{error.filename}: " if error.filename else ""
        failure = PublisherError(
            f"{what}{error.strerror or error}", remedy="Mend that on this machine, then run the command again"
        )
        print(f"cvmfs_server {options.command}: {failure}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            drop_output()
        return failure.exit_code
    return code


def drop_output() -> None:
    """Give Python's own flush at exit nothing left to complain about."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def handle_interruptions(program: str) -> None:
    """Clean up on SIGTERM, which stopped containers get, as on a keyboard's interrupt, and let that come to its end.

    Signals often come twice at once, as from timeout(1) or impatient hands. Who insists later does not wait, for
    storage that does not answer, say; then things are as after SIGKILL, and whatever may still be under way has its
    lease, which is not given back.

    :param program: for messages
    """
    first: float | None = None

    def handle(*_: object) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() > first + _HASTE:
            os.write(
                2,
                f"{program}: interrupted again, and left at once. A lease ends by itself within four minutes; what is "
                "still open ends by: cvmfs_server abort -f\n".encode(),
            )
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGTERM, handle)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is for what a script runs in the background
        signal.signal(signal.SIGINT, handle)


def interrupt(*_: object) -> NoReturn:
    """Be interrupted by a signal, as by a keyboard."""
    raise KeyboardInterrupt
