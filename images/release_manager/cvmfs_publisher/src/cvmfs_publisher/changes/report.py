# SPDX-License-Identifier: GPL-3.0-or-later
"""What changes made of a repository."""

from __future__ import annotations

import functools
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

_Path = bytes  # the report has another use for that name

Tell = Callable[[str, bytes], None]
"""Is told of each path that changes, once that is known: ``add``, ``mod`` or ``rem``, and the path."""


class Counted(Protocol):
    """What is known of any entry: its type and permissions, and its size in bytes."""

    @property
    def mode(self) -> int: ...

    @property
    def size(self) -> int: ...


@dataclass(slots=True)
class Tally:
    """How many paths of each type there are, as CernVM-FS's publish statistics count them.

    :param files: regular and special files
    :param bytes: of the regular files
    """

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    bytes: int = 0

    def add(self, entry: Counted, sign: int = 1) -> None:
        """Count an entry, or with -1 take it out."""
        if stat.S_ISDIR(entry.mode):
            self.directories += sign
        elif stat.S_ISLNK(entry.mode):
            self.symlinks += sign
        else:
            self.files += sign
            self.bytes += sign * entry.size if stat.S_ISREG(entry.mode) else 0


class PathList:
    """The first paths of a set that may be large, in the order of their bytes.

    :param limit: how many to keep
    :param tell: gets each path at once
    :ivar tally: all of them by their type
    """

    __slots__ = ("_limit", "_paths", "_tell", "count", "tally")

    def __init__(self, limit: int, tell: Callable[[bytes], None] | None = None) -> None:
        self.count = 0
        self.tally = Tally()
        self._limit = limit
        self._tell = tell
        self._paths: list[bytes] = []

    def add(self, path: bytes, entry: Counted | None = None) -> None:
        """Take one more path; `entry` is what is, or was, there."""
        self.count += 1
        if entry is not None:
            self.tally.add(entry)
        if self._tell is not None:
            self._tell(path)
        self._paths.append(path)
        if len(self._paths) > 2 * self._limit + 1000:
            self._shorten()

    def add_unnamed(self, count: int, tally: Tally | None = None) -> None:
        """Count paths without naming them; `tally` has their types."""
        self.count += count
        if tally is not None:
            self.tally.files += tally.files
            self.tally.directories += tally.directories
            self.tally.symlinks += tally.symlinks
            self.tally.bytes += tally.bytes

    @property
    def is_full(self) -> bool:
        """Whether nobody wants more paths than there are."""
        return self._tell is None and self.is_truncated

    @property
    def is_truncated(self) -> bool:
        """Whether there are more paths than are kept."""
        return self.count > self._limit

    @property
    def paths(self) -> list[bytes]:
        """The paths that are kept, sorted."""
        self._shorten()
        return list(self._paths)

    def _shorten(self) -> None:
        self._paths.sort()
        del self._paths[self._limit :]


@dataclass(slots=True)
class ChangeReport:
    """What changes made of the tree; every path counts, whatever its type.

    :param added: paths that were not there before
    :param modified: paths whose content, attributes or type are different now
    :param removed: paths that are not there any more
    :param files: regular files whose content was taken
    :param bytes: of their content
    :param new_objects: objects that went to the store
    :param uploaded_bytes: of these objects
    :param known_objects: objects that the store had already
    :param grafts: files that are only described, by data that the store should have
    :param warnings: what was left out or published in another form, for people
    """

    added: PathList
    modified: PathList
    removed: PathList
    files: int = 0
    bytes: int = 0
    new_objects: int = 0
    uploaded_bytes: int = 0
    known_objects: int = 0
    grafts: int = 0
    warnings: list[str] = field(default_factory=list)

    def modify(self, path: _Path, old: Counted, new: Counted) -> None:
        """Note a path that is there before and after, with what it was and is."""
        self.modified.add(path)
        if stat.S_IFMT(old.mode) == stat.S_IFMT(new.mode):
            self.modified.tally.add(new)
            grown = new.size - old.size if stat.S_ISREG(new.mode) else 0
            self.added.tally.bytes += max(grown, 0)
            self.removed.tally.bytes += max(-grown, 0)
        else:
            self.added.tally.add(new)
            self.removed.tally.add(old)

    @classmethod
    def empty(cls, max_paths: int, tell: Tell | None = None) -> ChangeReport:
        """Return a report of no changes, which can name `max_paths` paths of each kind, and tells of all of them."""
        kinds = ("add", "mod", "rem")
        added, modified, removed = (PathList(max_paths, tell and functools.partial(tell, kind)) for kind in kinds)
        return cls(added, modified, removed)

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return bool(self.added.count or self.modified.count or self.removed.count)
