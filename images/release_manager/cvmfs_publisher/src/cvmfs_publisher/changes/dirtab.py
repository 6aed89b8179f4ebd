# SPDX-License-Identifier: GPL-3.0-or-later
"""``.cvmfsdirtab``: patterns of the directories that become nested catalogs.

The format is described in the CernVM-FS documentation, "Managing Nested Catalogs with .cvmfsdirtab".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ..errors import SourceError
from ..paths import display

DIRTAB = b".cvmfsdirtab"
"""Its name; it stands in the repository's root."""

_TOKEN = re.compile(rb"\\([*?\\])|([*?])|([^\\])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dirtab:
    """The rules of a ``.cvmfsdirtab``.

    :param rules: for each line, the patterns of the names on the way to the directories that it means
    :param exclusions: patterns of whole paths, with a leading slash
    """

    rules: tuple[tuple[re.Pattern[bytes], ...], ...] = ()
    exclusions: tuple[re.Pattern[bytes], ...] = ()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Return the rules that a file has.

        :raises SourceError: when a line is none; nothing of the file can be relied on then
        """
        rules: dict[bytes, tuple[re.Pattern[bytes], ...]] = {}
        exclusions: dict[bytes, re.Pattern[bytes]] = {}
        for number, line in enumerate(text.splitlines(), 1):
            pattern = line.strip()
            if pattern.startswith(b"!"):
                pattern = pattern[1:].strip()
                lead = b"/" if pattern.startswith(b"/") else b""
                relaxed = [_translate(name, number) for name in _names(pattern)]
                exclusions[pattern] = re.compile(lead + b"/".join(relaxed), re.DOTALL)
            elif pattern and not pattern.startswith(b"#"):
                if not pattern.startswith(b"/") or not _names(pattern):
                    raise _bad_line(number, pattern, "Name a path below the root, with a leading slash")
                names = [_translate(name, number) for name in _names(pattern)]
                rules[pattern] = tuple(re.compile(name, re.DOTALL) for name in names)
            if pattern in rules and pattern in exclusions:
                raise _bad_line(number, pattern, "Another line says the opposite; remove one of them")
        return cls(tuple(rules.values()), tuple(exclusions.values()))

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


def _translate(name: bytes, number: int) -> bytes:
    """Return the regular expression of a shell pattern; a backslash makes a special character an ordinary one."""
    expression = b""
    position = 0
    while position < len(name):
        token = _TOKEN.match(name, position)
        if token is None:
            raise _bad_line(number, name, "Only *, ? and backslash can follow a backslash")
        escaped, special, plain = token.groups()
        expression += re.escape(escaped or plain) if not special else b".*" if special == b"*" else b"[^/]"
        position = token.end()
    return expression


def _bad_line(number: int, pattern: bytes, remedy: str) -> SourceError:
    return SourceError(f"Line {number} of /{display(DIRTAB)} is no rule: {display(pattern)!r}", remedy=remedy)
