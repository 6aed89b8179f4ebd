# SPDX-License-Identifier: GPL-3.0-or-later
"""``.cvmfsdirtab``: patterns of the directories that become nested catalogs.

The format is described in the CernVM-FS documentation, "Managing Nested Catalogs with .cvmfsdirtab"; see also
``docs/formats.md``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ..errors import SourceError
from ..paths import display

DIRTAB = b".cvmfsdirtab"
"""Its name; it stands in the repository's root."""

MAX_SIZE = 4 << 20
"""Bytes of the largest file that is read for rules."""

_TOKEN = re.compile(rb"\\([*?\\])|([*?])|([^\\])", re.DOTALL)
_NAMED_SET = re.compile(rb"\[[:.=]")

_Line = tuple[bool, tuple[bytes, ...]]
"""A line by what it means: whether it is absolute, and the patterns of the names."""


@dataclass(frozen=True, slots=True)
class Dirtab:
    """The rules of a ``.cvmfsdirtab``.

    :param lines: the lines that mean directories
    :param rules: for each of them, the patterns of the names on the way to the directories that it means
    :param exclusions: patterns of whole paths, with a leading slash
    """

    lines: tuple[bytes, ...] = ()
    rules: tuple[tuple[re.Pattern[bytes], ...], ...] = ()
    exclusions: tuple[re.Pattern[bytes], ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the rules that a file has.

        :raises SourceError: when a line is none; nothing of the file can be relied on then
        """
        rules: dict[_Line, tuple[re.Pattern[bytes], ...]] = {}
        exclusions: dict[_Line, re.Pattern[bytes]] = {}
        for number, line in enumerate(text.split(b"\n"), 1):
            pattern = line.strip()
            is_exclusion = pattern.startswith(b"!")
            if is_exclusion:
                pattern = pattern[1:].strip()
            if not pattern or (pattern.startswith(b"#") and not is_exclusion):
                continue
            names = tuple(_names(pattern))
            is_absolute = pattern.startswith(b"/")
            key = (is_absolute, names)
            if not names or not (is_absolute or is_exclusion):
                raise _bad_line(number, pattern, "Name a path below the root, with a leading slash")
            if is_exclusion:
                relaxed = b"/".join(_translate(name, number, sets=False) for name in names)
                exclusions[key] = re.compile(b"/" * is_absolute + relaxed, re.DOTALL)
            else:
                rules[key] = tuple(re.compile(_translate(name, number, sets=True), re.DOTALL) for name in names)
            if key in rules and key in exclusions:
                raise _bad_line(number, pattern, "Another line says the opposite; remove one of them")
        lines = tuple(b"/" + b"/".join(names) for _, names in rules)
        return cls(lines, tuple(rules.values()), tuple(exclusions.values()))

    def covers(self, path: bytes) -> bool:
        """Say whether the directory `path` is to be a nested catalog."""
        names = _names(path)
        return any(
            len(rule) == len(names) and all(pattern.fullmatch(name) for pattern, name in zip(rule, names, strict=True))
            for rule in self.rules
        ) and not self.excludes(path)

    def excludes(self, path: bytes) -> bool:
        """Say whether a line takes the directory `path` out of what others mean."""
        return any(pattern.fullmatch(b"/" + path) for pattern in self.exclusions)


def _names(pattern: bytes) -> list[bytes]:
    return [name for name in pattern.split(b"/") if name]


def _translate(name: bytes, number: int, *, sets: bool) -> bytes:
    """Return the regular expression of a shell pattern; a backslash makes a special character an ordinary one.

    :param sets: whether ``[abc]`` is a set of characters, which it is in CernVM-FS's rules, but not in exclusions
    """
    expression = b""
    position = 0
    while position < len(name):
        found = _read_set(name, position, number) if sets else None
        if found is not None:
            piece, position = found
            expression += piece
            continue
        token = _TOKEN.match(name, position)
        if token is None:
            raise _bad_line(number, name, "Only *, ? and backslash can follow a backslash")
        escaped, special, plain = token.groups()
        expression += re.escape(escaped or plain) if not special else b".*" if special == b"*" else b"[^/]"
        position = token.end()
    return expression


def _read_set(name: bytes, start: int, number: int) -> tuple[bytes, int] | None:
    """Return the expression of the set of characters that begins at `start`, and where it ends; None if none does."""
    if name[start : start + 1] != b"[":
        return None
    is_negated = name[start + 1 : start + 2] in (b"!", b"^")
    first = start + 1 + is_negated
    end = name.find(b"]", first + 1)  # a bracket in the first place is one of the characters
    if end < 0:
        return None
    listed = name[first:end]
    if _NAMED_SET.search(listed):
        raise _bad_line(number, name, "List the characters themselves instead of naming a class")
    listed = re.sub(rb"\\([*?\\])", rb"\1", listed)
    members: set[int] = set()
    position = 0
    while position < len(listed):
        if listed[position + 1 : position + 2] == b"-" and position + 2 < len(listed):
            members.update(range(listed[position], listed[position + 2] + 1))
            position += 3
        else:
            members.add(listed[position])
            position += 1
    if is_negated:
        members = set(range(256)) - members
    alternatives = b"|".join(re.escape(bytes([member])) for member in sorted(members))
    return (b"(?:" + alternatives + b")" if members else b"(?!)"), end + 1


def _bad_line(number: int, pattern: bytes, remedy: str) -> SourceError:
    return SourceError(f"Line {number} of /{display(DIRTAB)} is no rule: {display(pattern)!r}", remedy=remedy)
