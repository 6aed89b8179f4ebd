# SPDX-License-Identifier: GPL-3.0-or-later
"""Show what is different between two revisions; by default, what the last publish changed.

A revision is a tag, or @ and one of these: the hash of a root catalog, the number of a tagged revision, or a time in
UTC (@2026-01-31T12:00:00Z), which means the tagged revision that was the newest then.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ...catalog import DirectoryEntry
from ...errors import UsageError
from ...operations.diff import Comparison, Difference, Kind, diff
from ...operations.environment import Environment
from ...operations.interactive import worktree_changes
from ...repository.history import TRUNK, TRUNK_PREVIOUS, Tag
from .. import output
from ..arguments import add_json, add_repository_or_url

_LEGEND = (
    "# line descriptor: A - add, R - remove, M - modify, S - statistics; modify flags: S - size, M - mode, "
    "T - timestamp, C - content, L - symlink target; entry types: F - regular file, S - symbolic link, D - directory, "
    "N - nested catalog"
)
_WORDS = {Kind.ADDED: "add", Kind.REMOVED: "remove", Kind.MODIFIED: "modify"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-s", "--from", dest="old", metavar="REVISION", help=f"the old revision (default: {TRUNK_PREVIOUS})"
    )
    parser.add_argument("-d", "--to", dest="new", metavar="REVISION", help=f"the new revision (default: {TRUNK})")
    parser.add_argument(
        "-m", "--machine-readable", action="store_true", help="one line of fields for each path, as upstream prints it"
    )
    parser.add_argument("-h", "--header", action="store_true", help="begin with a line that says what is compared")
    parser.add_argument(
        "-i", "--ignore-timediff", action="store_true", help="leave out what differs by modification time alone"
    )
    parser.add_argument(
        "-k", "--keychain", type=Path, metavar="PATH", help="public master key, or a directory that has it"
    )
    parser.add_argument(
        "-w", "--worktree", action="store_true", help="show what the open interactive transaction has changed so far"
    )
    add_json(parser)
    add_repository_or_url(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if options.worktree:
        return _worktree(environment, environment.resolve(options.repository), options)
    name = environment.resolve_for_reading(options.repository)
    with diff(
        environment,
        name,
        old=options.old or TRUNK_PREVIOUS,
        new=options.new or TRUNK,
        keychain=options.keychain,
        ignore_mtime=options.ignore_timediff,
    ) as comparison:
        if options.json:
            _print_json(name, comparison)
        else:
            _print(comparison, header=options.header, machine_readable=options.machine_readable)
    return 0


def _worktree(environment: Environment, name: str, options: argparse.Namespace) -> int:
    revisions = options.old, options.new, options.keychain
    if any(revisions) or options.machine_readable or options.header or options.ignore_timediff:
        raise UsageError("-w compares with what the transaction began with", remedy="Leave -s, -d, -k, -m, -h, -i out")
    result = worktree_changes(environment, name, tell=None if options.json else output.print_path(name))
    if options.json:
        output.print_json(result)
    return 0


def _print(comparison: Comparison, *, header: bool, machine_readable: bool) -> None:
    if header and machine_readable:
        print(_LEGEND)
    elif header:
        old, new = (f"{tag.name}/r{tag.revision} ({output.stringify_time(tag.timestamp)})" for tag in _tags(comparison))
        print(f"DELTA: {old} --> {new}")
    for letter, word, count in _statistics(comparison):
        print(f"S {letter} {count}" if machine_readable else f"d(# {word}): {count}")
    sys.stdout.flush()
    line = _machine_line if machine_readable else _human_line
    for difference in comparison.differences:
        # Names are any bytes, and are printed as they are
        sys.stdout.buffer.write(line(difference) + b"\n")
    sys.stdout.buffer.flush()


def _print_json(name: str, comparison: Comparison) -> None:
    """Print one document, piece by piece, as there may be many differences."""
    old, new = (output.plain(tag) for tag in _tags(comparison))
    counters = {word: count for _, word, count in _statistics(comparison)}
    head = json.dumps({"repository": name, "from": old, "to": new, "counters": counters}, sort_keys=True)
    print(head[:-1] + ', "differences": [', end="")
    for number, difference in enumerate(comparison.differences):
        document = {
            "kind": difference.kind.name.lower(),
            "path": difference.path,
            "types": [_type(entry)[1] for entry in (difference.old, difference.new) if entry is not None],
            "aspects": [aspect.word for aspect in difference.aspects],
        }
        print(", " if number else "", json.dumps(output.plain(document), sort_keys=True), sep="", end="")
    print("]}")


def _tags(comparison: Comparison) -> tuple[Tag, Tag]:
    return comparison.old, comparison.new


def _statistics(comparison: Comparison) -> list[tuple[str, str, int]]:
    """Return what there is more of: upstream's letter, its word, and how many."""
    counters = comparison.counters
    return [
        ("F", "regular files", counters.regular),
        ("S", "symlinks", counters.symlink),
        ("D", "directories", counters.dir - counters.nested),  # a nested catalog has its directory's entry twice
        ("N", "catalogs", counters.nested),
    ]


def _machine_line(difference: Difference) -> bytes:
    path = b"/" + difference.path
    types = [_type(entry)[0] for entry in (difference.old, difference.new) if entry is not None]
    if difference.kind is Kind.MODIFIED:
        letters = "".join(aspect.letter for aspect in difference.aspects)
        return f"M[{letters}] {''.join(dict.fromkeys(types))} ".encode() + path
    line = f"{difference.kind.value} {types[0]} ".encode() + path
    entry = _only(difference)
    if entry.is_directory:
        return line
    return line + f" {'+' if difference.kind is Kind.ADDED else '-'}{entry.size}".encode()


def _human_line(difference: Difference) -> bytes:
    path = b"/" + difference.path
    types = [_type(entry)[1] for entry in (difference.old, difference.new) if entry is not None]
    word = _WORDS[difference.kind]
    if difference.kind is Kind.MODIFIED:
        words = ", ".join(aspect.word for aspect in difference.aspects)
        return path + f" {word} {'->'.join(dict.fromkeys(types))} [{words}]".encode()
    sign = "+" if difference.kind is Kind.ADDED else "-"
    return path + f" {word} {types[0]} {sign}{_only(difference).size} bytes".encode()


def _only(difference: Difference) -> DirectoryEntry:
    """Return the entry of what was added or removed."""
    entry = difference.new or difference.old
    assert entry is not None
    return entry


def _type(entry: DirectoryEntry) -> tuple[str, str]:
    if entry.is_regular:
        return "F", "file"
    if entry.is_symlink:
        return "S", "symlink"
    return ("D", "directory") if entry.is_directory else ("U", "unknown")
