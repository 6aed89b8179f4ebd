# SPDX-License-Identifier: GPL-3.0-or-later
"""What changes made of a repository."""

from __future__ import annotations

from dataclasses import dataclass, field


class PathList:
    """The first paths of a set that may be large, in the order of their bytes.

    :param limit: how many to keep
    """

    __slots__ = ("_limit", "_paths", "count")

    def __init__(self, limit: int) -> None:
        self.count = 0
        self._limit = limit
        self._paths: list[bytes] = []

    def add(self, path: bytes) -> None:
        """Take one more path."""
        self.count += 1
        self._paths.append(path)
        if len(self._paths) > 2 * self._limit + 1000:
            self._shorten()

    def add_unnamed(self, count: int) -> None:
        """Count paths without naming them."""
        self.count += count

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
    :param warnings: what was left out or published in another form, for people
    """

    added: PathList
    modified: PathList
    removed: PathList
    files: int = 0
    bytes: int = 0
    new_objects: int = 0
    uploaded_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, max_paths: int) -> ChangeReport:
        """Return a report of no changes, which can name `max_paths` paths of each kind."""
        return cls(PathList(max_paths), PathList(max_paths), PathList(max_paths))

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return bool(self.added.count or self.modified.count or self.removed.count)
