# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration files of CernVM-FS, which its tools let a shell read: assignments to variables, one a line."""

from __future__ import annotations

import re

from .errors import ConfigurationError

_PART = r"""'[^']*'|"(?:[^"\\]|\\.)*"|\\.|[^\s'"\\;&|<>()]"""
_WORD_PART = re.compile(_PART)
_NEEDS_SHELL = re.compile(r'[$`]|"(?:[^\\]|\\.)*?[$`].*"')
_ASSIGNMENT = re.compile(rf"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=((?:{_PART})*)(?:\s+(?:#.*)?)?", re.ASCII)


def parse_assignments(text: str, origin: str) -> dict[str, str]:
    """Return the assignments in a file of shell syntax, without running a shell.

    What only a shell can tell, as variables and commands, is refused rather than taken literally.

    :param origin: the file, for messages
    :raises ConfigurationError: naming the line; never its value, which may be a secret
    """
    values = {}
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(stripped)
        if match is None:
            raise ConfigurationError(
                f"Line {number} of {origin} is not of the form NAME=value",
                remedy="Quote values with blanks and special characters",
            )
        name, value = match.groups()
        parts = _WORD_PART.findall(value)
        if any(
            _NEEDS_SHELL.fullmatch(part) or (part == "~" and before in ("", ":"))
            for before, part in zip(("", *parts), parts, strict=False)
        ):
            raise ConfigurationError(
                f"Line {number} of {origin} needs a shell to find the value of {name}",
                remedy="Write the value itself, in single quotes",
            )
        values[name] = "".join(map(_unquoted, parts))
    return values


def is_on(text: str) -> bool | None:
    """Return what a switch is set to; None when that is neither true nor false."""
    word = text.lower()
    return True if word in ("true", "yes", "on", "1") else False if word in ("false", "no", "off", "0") else None


def _unquoted(part: str) -> str:
    if part[0] == "'":
        return part[1:-1]
    if part[0] == '"':
        return re.sub(r'\\(["\\$`])', r"\1", part[1:-1])
    return part[1:] if part[0] == "\\" else part
