# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's grammar, shared by all subcommands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from ..errors import ConfigurationError

WRONG_USE = 3


class Command(Protocol):
    """What a module in ``commands/`` offers; its docstring's first line is the command's help."""

    __doc__: str | None

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Declare the subcommand's options."""

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


class _Parser(argparse.ArgumentParser):
    """Leaves with upstream's exit code for wrong use instead of argparse's."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_USE, f"{self.prog}: {message}\n")


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    # Abbreviated long options would change their meaning with every option that is added.
    parser = _Parser(prog="cvmfs_server", description="Manages CernVM-FS repositories.", allow_abbrev=False)
    formatter = argparse.RawDescriptionHelpFormatter
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in commands.items():
        summary = (command.__doc__ or "").strip().partition("\n")[0]
        # No -h for help: `tag` has it for a hash.
        subparser = subparsers.add_parser(
            name,
            help=summary,
            description=command.__doc__,
            allow_abbrev=False,
            add_help=False,
            formatter_class=formatter,
        )
        subparser.add_argument("--help", action="help", help="show this help and leave")
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def add_repository(parser: argparse.ArgumentParser) -> None:
    """Declare the one repository that a subcommand works on; without it there must be just one configured."""
    parser.add_argument(
        "repository",
        nargs="?",
        metavar="FQRN",
        help="fully qualified repository name; optional if only one is configured",
    )


def add_repository_or_url(parser: argparse.ArgumentParser) -> None:
    """Declare the one repository that a subcommand reads, which may be somebody else's."""
    parser.add_argument(
        "repository",
        nargs="?",
        metavar="FQRN",
        help="fully qualified repository name, or the repository's URL; optional if only one is configured",
    )


def read_whitelist(file: str) -> bytes:
    """Return the signed whitelist that is in a file, or comes on standard input if that is called ``-``.

    :raises ConfigurationError: when it cannot be read
    """
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the whitelist {file}: {error.strerror}", remedy="Give the path of a whitelist"
        ) from error


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare the option for programs that read the result."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document on standard output")


def add_refused(parser: argparse.ArgumentParser, flag: str, reason: str) -> None:
    """Declare an option of upstream's that this engine does not have: refused by name rather than ignored.

    :param reason: why, and what to use instead
    """
    parser.add_argument(flag, nargs=0, action=_Refused, help=argparse.SUPPRESS, metavar=reason)


class _Refused(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        parser.error(f"{self.option_strings[0]} is not supported by this engine: {self.metavar}")


def repository_and_path(argument: str | None) -> tuple[str | None, str]:
    """Split ``FQRN/sub/path``, the form in which upstream takes a subtree."""
    if argument is None:
        return None, ""
    name, _, path = argument.partition("/")
    return name, path


def whole_number(lowest: int, highest: int = 2**63 - 1) -> Callable[[str], int]:
    """Return an argparse type for numbers within bounds."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(f"{text} is not a number from {lowest} to {highest}")
        return int(text)

    return parse
