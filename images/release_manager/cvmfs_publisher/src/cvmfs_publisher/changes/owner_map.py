# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of user and group numbers: the files of ``CVMFS_UID_MAP``, ``CVMFS_GID_MAP`` and ``catalog-chown``.

The format is described in the CernVM-FS documentation, "Repository Ownership": a line ``FROM TO`` for each number, and
``* TO`` for all others; empty lines and those that begin with ``#`` do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ..errors import ConfigurationError
from .change_set import Owner

_HIGHEST = 2**32 - 1
_FORM = "Write two numbers, or * and a number, with a blank between them"


@dataclass(frozen=True, slots=True)
class OwnerMap:
    """What becomes of numbers of users, or of groups.

    :param numbers: numbers, and what each becomes
    :param others: what every other number becomes; None: it stays
    """

    numbers: Mapping[int, int] = field(default_factory=dict)
    others: int | None = None

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a map.

        :raises ConfigurationError: when the file cannot be read, has no rule, or a line that is none
        """
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"Cannot read the map of owners {file}: {error.strerror}", remedy="Name a file with lines FROM TO"
            ) from None
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: bytes, label: str) -> Self:
        """Return the map that a file has; of two lines for the same number, the later one counts.

        :param label: names the file in messages
        :raises ConfigurationError: when it has no rule, or a line that is none
        """
        numbers: dict[int, int] = {}
        others = None
        for position, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith(b"#"):
                continue
            targets = [_number(word) for word in words[1:]]
            source = _number(words[0])
            if len(targets) != 1 or targets[0] is None or (source is None and words[0] != b"*"):
                shown = line.strip().decode("utf-8", "backslashreplace")
                raise ConfigurationError(f"{label}, line {position} is no rule: {shown!r}", remedy=_FORM)
            if source is None:
                others = targets[0]
            else:
                numbers[source] = targets[0]
        if not numbers and others is None:
            raise ConfigurationError(f"{label} has no rule in it", remedy=_FORM)
        return cls(numbers, others)

    def __call__(self, number: int) -> int:
        """Return what a number becomes."""
        return self.numbers.get(number, number if self.others is None else self.others)


def _number(word: bytes) -> int | None:
    """Return a user's or group's number; None when it is none."""
    return int(word) if word.isdigit() and int(word) <= _HIGHEST else None


@dataclass(frozen=True, slots=True)
class Owners:
    """What becomes of the owners of everything that is published.

    :param uids: map of users
    :param gids: map of groups
    """

    uids: OwnerMap = field(default_factory=OwnerMap)
    gids: OwnerMap = field(default_factory=OwnerMap)

    @classmethod
    def load(cls, uid_map: str, gid_map: str) -> Self:
        """Read both maps; an empty name stands for no map.

        :raises ConfigurationError: when a file cannot be used
        """
        return cls(*(OwnerMap.load(Path(file)) if file else OwnerMap() for file in (uid_map, gid_map)))

    def __call__(self, owner: Owner) -> Owner:
        """Return what an owner becomes."""
        return Owner(self.uids(owner.uid), self.gids(owner.gid))
