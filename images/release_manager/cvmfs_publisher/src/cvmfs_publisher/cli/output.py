# SPDX-License-Identifier: GPL-3.0-or-later
"""What subcommands print, and the little that they ask."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import json as json_module
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from ..changes.change_set import ChangeSet
from ..changes.report import Tell
from ..content.hash import ContentHash
from ..errors import UsageError
from ..operations.publish import PublishResult
from ..operations.rewrite import RewriteResult
from ..operations.tags import BranchLevel
from ..paths import ROOT, display
from ..repository.history import Tag


def plain(value: object) -> object:
    """Return `value` in the types that JSON has; paths in bytes become printable text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | ContentHash):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return display(value)
    if isinstance(value, str):  # that of an argument may have bytes in it that are no text
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, ContentHash):
        return value.hex
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return value


def print_json(value: object) -> None:
    """Print `value` as one line of JSON on standard output."""
    print(json_module.dumps(plain(value), sort_keys=True))


def ask(question: str) -> str:
    """Ask on the terminal, and return the answer without blanks around it."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def confirm(question: str) -> bool:
    """Ask on the terminal; anything but ``y`` is a no."""
    return ask(question) in ("y", "Y")


def add_change_set(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which changes a publish makes."""
    parser.add_argument(
        "--changes", metavar="FILE", help="JSON document that lists the changes of this publish; - reads standard input"
    )
    parser.add_argument(
        "--checksum",
        action="store_true",
        help="read every source file, even where size, mtime and the like have not changed",
    )


def read_change_set(options: argparse.Namespace) -> ChangeSet:
    """Return the change set that the options name; an empty one if they name none."""
    if options.changes is None:
        return ChangeSet()
    if options.changes == "-":
        return ChangeSet.parse(sys.stdin.buffer.read(), "standard input")
    try:
        return ChangeSet.parse(Path(options.changes).read_bytes(), options.changes)
    except OSError as error:
        raise UsageError(
            f"Cannot read the changes from {options.changes}: {error.strerror}",
            remedy="Name a file with a change set, or - for standard input",
        ) from error


def print_path(name: str) -> Tell:
    """Return what prints a path of a repository that changes, as upstream does; its name as it is, whatever its bytes.

    There may be millions of them, so each is printed at once.
    """

    def tell(kind: str, path: bytes) -> None:
        place = b"/" + path if path != ROOT else b""
        sys.stdout.buffer.write(f"[{kind}] /cvmfs/{name}".encode() + place + b"\n")

    return tell


def print_publish(result: PublishResult, *, json: bool) -> None:
    """Print what a publish did, or a dry run would do."""
    if json:
        print_json(result)
        return
    warn(result.warnings)
    changes = f"{result.added} added, {result.modified} changed, {result.removed} removed"
    if result.dry_run:
        print(f"{result.repository}: {changes}; nothing was published.")
    elif not result.changed:
        print(f"{result.repository}: nothing changed, revision {result.revision} stays.")
    elif result.branch:
        print(f"{result.repository}: published {result.tag} on the branch {result.branch}: {changes}.")
        print("Reset to trunk on default branch")
    else:
        tagged = f", tagged {result.tag}" if result.tag else ""
        print(f"{result.repository}: published revision {result.revision}{tagged}: {changes}.")


def warn(warnings: Iterable[str]) -> None:
    """Print warnings, which are for people."""
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)


def print_rewrite(result: RewriteResult, *, json: bool) -> None:
    """Print what became of the catalogs."""
    if json:
        print_json(result)
        return
    warn(result.warnings)
    if result.changed:
        print(
            f"{result.repository}: published revision {result.revision}: "
            f"{result.rewritten} of {result.catalogs} catalogs were written anew."
        )
    else:
        print(f"{result.repository}: nothing to do in {result.catalogs} catalogs, revision {result.revision} stays.")


def print_tag(tag: Tag, *, machine_readable: bool) -> None:
    """Print one tag, in upstream's words or as its line of fields."""
    if machine_readable:
        print(_fields(tag))
        return
    print(
        f"Name:         {tag.name}\n"
        f"Revision:     {tag.revision}\n"
        f"Timestamp:    {stringify_time(tag.timestamp)}\n"
        f"Branch:       {tag.branch}\n"
        f"Root Hash:    {tag.root_hash.hex}\n"
        f"Catalog Size: {_size(tag.size)}\n"
        f"{tag.description}"
    )


def print_tags(tags: Sequence[Tag], *, machine_readable: bool) -> None:
    """Print all tags: as upstream's table, which ends with the newest, or as lines of fields, newest first."""
    if machine_readable:
        for tag in tags:
            print(_fields(tag))
        return
    header = ("Name", "Revision", "Timestamp", "Branch", "Description")
    rows = [
        (tag.name, str(tag.revision), stringify_time(tag.timestamp), tag.branch, tag.description)
        for tag in reversed(tags)
    ]
    widths = [max(len(row[column].encode()) for row in [header, *rows]) for column in range(len(header) - 1)]
    widths[2] = max(widths[2], len(header[4]))  # upstream's table is at least that wide
    name, revision, timestamp, branch = widths
    rules = [*("─" * width for width in widths), "─" * (len(header[4]) + 1)]
    print(" │ ".join([*(_padded(cell, width) for cell, width in zip(header, widths, strict=False)), header[4]]))
    print("─┼─".join(rules))
    for row in rows:
        cells = (
            _padded(row[0], name),
            row[1].rjust(revision),
            _padded(row[2], timestamp),
            _padded(row[3], branch),
            row[4],
        )
        print(" │ ".join(cells))
    print("─┴─".join(rules))
    print(f"listing contains {len(rows)} tags")


def print_branches(branches: Sequence[BranchLevel], *, machine_readable: bool) -> None:
    """Print the hierarchy of branches as upstream does."""
    for branch in branches:
        if machine_readable:
            print(f"[{branch.level}] {' ' * branch.level}{branch.branch} @{branch.initial_revision}")
        else:
            tree = "".join("├ " if level == branch.level else "│ " for level in range(1, branch.level + 1))
            print(f"{tree}{branch.branch} @{branch.initial_revision}")


def stringify_time(timestamp: int) -> str:
    """Return a point in time as upstream writes it, in UTC."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return f"{moment.day} {moment:%b %Y %H:%M:%S}"


def _fields(tag: Tag) -> str:
    branch = tag.branch or "(default)"
    return f"{tag.name} {tag.root_hash.hex} {tag.size} {tag.revision} {tag.timestamp} {branch} {tag.description}"


def _size(size: int) -> str:
    for exponent, unit in ((3, "GiB"), (2, "MiB"), (1, "kiB")):
        if size > 1024**exponent:
            return f"{size / 1024**exponent:.3f} {unit}"
    return f"{size} Byte"


def _padded(text: str, width: int) -> str:
    """Pad a text to that many bytes, as upstream counts."""
    return text + " " * (width - len(text.encode()))
