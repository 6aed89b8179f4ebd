# SPDX-License-Identifier: GPL-3.0-or-later
"""The statistics counters that every catalog carries, for itself and for the catalogs below it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields


@dataclass(frozen=True, slots=True)
class Counters:
    """What there is in one catalog, or in several added up. The names are those in the statistics table.

    A nested catalog's directory counts twice: as mountpoint in the parent, and as root in the nested catalog.

    :param regular: regular files
    :param symlink: symbolic links
    :param special: devices, pipes and sockets
    :param dir: directories
    :param nested: references to nested catalogs
    :param chunked: those of the regular files that are stored in chunks
    :param chunks: the chunks of all chunked files
    :param file_size: bytes of all regular files
    :param chunked_size: bytes of all chunked files
    :param xattr: entries with extended attributes
    :param external: those of the regular files whose content is elsewhere
    :param external_file_size: bytes of all external files
    """

    regular: int = 0
    symlink: int = 0
    special: int = 0
    dir: int = 0
    nested: int = 0
    chunked: int = 0
    chunks: int = 0
    file_size: int = 0
    chunked_size: int = 0
    xattr: int = 0
    external: int = 0
    external_file_size: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def entries(self) -> int:
        """Entries of all kinds."""
        return self.regular + self.symlink + self.special + self.dir


COUNTER_NAMES: tuple[str, ...] = tuple(f.name for f in fields(Counters))


@dataclass(frozen=True, slots=True)
class Statistics:
    """A catalog's counters: of its own entries (``self_…``), and of all catalogs below it (``subtree_…``)."""

    own: Counters = field(default_factory=Counters)
    subtree: Counters = field(default_factory=Counters)

    @property
    def total(self) -> Counters:
        """The catalog and everything below it."""
        return self.own + self.subtree

    def as_dict(self) -> dict[str, int]:
        """Return the counters under the names that they have in the catalog's statistics table."""
        return {
            prefix + name: getattr(counters, name)
            for prefix, counters in (("self_", self.own), ("subtree_", self.subtree))
            for name in COUNTER_NAMES
        }

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> Statistics:
        """Return the counters of a statistics table. Older catalogs lack some; these are 0."""
        return cls(
            Counters(**{name: values.get("self_" + name, 0) for name in COUNTER_NAMES}),
            Counters(**{name: values.get("subtree_" + name, 0) for name in COUNTER_NAMES}),
        )
