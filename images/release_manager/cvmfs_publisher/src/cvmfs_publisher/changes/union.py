# SPDX-License-Identifier: GPL-3.0-or-later
"""Content from the scratch area of a union file system: what was changed in an interactive transaction.

The scratch area has each file and directory that was touched, whole, with all of its attributes, and marks for what was
removed. So all of it is read, and nothing of what is underneath. The marks of the kernel's overlayfs are those of its
documentation (``Documentation/filesystems/overlayfs.rst``): character devices 0:0 and attributes of directories. Those
of fuse-overlayfs, which follow aufs where there can be no devices, were observed with version 1.10.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from ..catalog import CatalogTree, DirectoryEntry
from ..errors import SourceError
from ..mount.overlay import UnionKind
from ..paths import ROOT, display, is_below, join, parent
from .change_set import Owner
from .directory import DirectorySource, unreadable
from .draft import content_of
from .entry import Listing, Origin, SourceEntry
from .special import REMOVE_SPECIAL, is_device, special_kind

_PREFIXES = {
    UnionKind.OVERLAY: (b"trusted.overlay.",),
    UnionKind.USER_OVERLAY: (b"user.overlay.",),
    UnionKind.FUSE_OVERLAY: (b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs."),
}
_WHITEOUT_PREFIX = b".wh."
_OPAQUE_FILE = b".wh..wh..opq"
_RESERVED = (b".wh..wh.", b".wh..opq")
"""How names begin that fuse-overlayfs keeps for itself."""


class UnionSource(DirectorySource):
    """The scratch area of a union file system.

    :param directory: the scratch area
    :param kind: whose marks are in it
    :param label: names the union in messages
    :param published: looks up a path of the revision underneath
    :param base: returns the tree of that revision; only called for what refers to another place of it
    :param claimed: in a union that shows everything as one user's: whom new files are given to; what is there already
        keeps its owner
    """

    def __init__(
        self,
        directory: str,
        kind: UnionKind,
        label: str,
        *,
        published: Callable[[bytes], DirectoryEntry | None],
        base: Callable[[], CatalogTree],
        claimed: Owner | None = None,
        ignore_special_files: bool = False,
        with_xattrs: bool = False,
    ) -> None:
        super().__init__(directory, ignore_special_files=ignore_special_files, with_xattrs=with_xattrs)
        self._prefixes = _PREFIXES[kind]
        self._has_whiteout_files = kind is UnionKind.FUSE_OVERLAY
        self._label = label
        self._published_entry = published
        self._base = base
        self._claimed = claimed
        self._removed: list[bytes] = []
        """What the directory that was listed last marks as removed."""

    def root(self) -> SourceEntry:
        """Return the root's own attributes."""
        return self._claim(super().root(), ROOT, ROOT)

    def listings(self) -> Iterator[Listing]:
        """Yield all directories in the scratch area; those that are there for others' sake have no changes in them.

        :raises UnreadableSource: when a directory, or something in it, cannot be read
        :raises SourceChanged: when a directory changes meanwhile
        :raises SourceError: when there is something that cannot be published
        """
        pending: list[tuple[bytes, bytes | None]] = [(ROOT, ROOT)]
        while pending:
            path, lower = pending.pop()
            listing = self._listing(path, lower)
            below = []
            for entry in listing.entries:
                self._claim(entry, join(path, entry.name), lower)
                if entry.is_directory:
                    below.append((join(path, entry.name), self._lower_of(path, entry, lower)))
                elif entry.is_regular:
                    self._complete(path, entry, lower)
            yield listing
            pending += reversed(below)

    def changed_outside(self, directory: bytes) -> Iterator[tuple[bytes, SourceEntry | None]]:
        """Yield what was touched outside a directory: paths, with the entries of those that are not removed.

        Directories above it come too: to be touched below is no change of theirs.
        """
        path = ROOT
        yield path, self.root()
        while path != directory:
            listing = self._listing(path, path)
            for name in listing.removed:
                yield join(path, name), None
            above = None
            for entry in listing.entries:
                child = join(path, entry.name)
                if not is_below(directory, child):
                    yield child, entry
                elif child != directory:
                    above = child
                    yield child, self._claim(entry, child, path)
            if above is None:
                return
            path = above

    def _listing(self, path: bytes, lower: bytes | None) -> Listing:
        entries = self._list(self._location(path))
        return Listing(path, entries, removed=self._removed, is_whole=lower is None)

    def _location(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root

    def _entries(
        self, location: bytes, found: list[tuple[bytes, os.stat_result]], descriptor: int
    ) -> list[SourceEntry]:
        self._removed = []
        kept = []
        marked = self._mark(location, b"opaque") == b"x"
        for name, status in found:
            whiteout = self._whiteout(location, name, status, marked=marked)
            if whiteout is None:
                self._refuse_device(location, name, status.st_mode)
                kept.append((name, status))
            elif whiteout:
                self._removed.append(whiteout)
        return super()._entries(location, kept, descriptor)

    def _whiteout(self, location: bytes, name: bytes, status: os.stat_result, *, marked: bool) -> bytes | None:
        """Return the name that a file marks as removed; an empty one if it marks something else; None if it is content.

        :param marked: the directory says that there may be empty files with the mark as an attribute
        """
        if self._has_whiteout_files and name.startswith(_WHITEOUT_PREFIX):
            return b"" if name.startswith(_RESERVED) else name.removeprefix(_WHITEOUT_PREFIX)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            return name
        if marked and stat.S_ISREG(status.st_mode) and not status.st_size:
            return name if self._mark(location + b"/" + name, b"whiteout") is not None else None
        return None

    def _refuse_device(self, location: bytes, name: bytes, mode: int) -> None:
        if is_device(mode) and not self._ignore_special_files:
            path = join(location[len(self._root) + 1 :], name)
            raise SourceError(f"/{display(path)} in {self._label} is {special_kind(mode)}", remedy=REMOVE_SPECIAL)

    def _lower_of(self, path: bytes, entry: SourceEntry, lower: bytes | None) -> bytes | None:
        """Return the directory underneath that a directory shows the content of besides its own; None for none.

        :param lower: that of the directory `path`, which the entry is in
        """
        child = join(path, entry.name)
        if self._is_opaque(self._location(child)):
            return None
        origin = self._redirect(child, lower)
        if origin is None:
            return None
        found = self._published_entry(origin) if origin == child else self._base().entry(origin)
        if found is None or not found.is_directory:
            return None
        # Below a directory that came from elsewhere, everything has come along with it
        if origin != child and (lower is None or origin != join(lower, entry.name)):
            entry.origin = Origin(self._base(), origin)
        return origin

    def _complete(self, path: bytes, entry: SourceEntry, lower: bytes | None) -> None:
        """Find the content of a file that was copied up without it."""
        child = join(path, entry.name)
        if self._mark(self._location(child), b"metacopy") is None:
            return
        origin = self._redirect(child, lower)
        found = self._base().entry(origin) if origin is not None else None
        if found is None or not found.is_regular:
            raise SourceError(
                f"/{display(child)} in {self._label} has no content in the scratch area, and none underneath",
                remedy="Write the file anew, or remove it",
            )
        entry.size = found.size
        entry.content = content_of(found)

    def _redirect(self, path: bytes, lower: bytes | None) -> bytes | None:
        """Return which path underneath a path of the scratch area belongs to."""
        redirect = self._mark(self._location(path), b"redirect")
        if redirect is not None and redirect.startswith(b"/"):
            return redirect.strip(b"/")
        if lower is None:
            return None
        return join(lower, redirect or path[len(parent(path)) :].lstrip(b"/"))

    def _is_opaque(self, location: bytes) -> bool:
        if self._mark(location, b"opaque") == b"y":
            return True
        return self._has_whiteout_files and os.path.lexists(location + b"/" + _OPAQUE_FILE)

    def _mark(self, location: bytes, name: bytes) -> bytes | None:
        """Return the value of one of the union file system's own extended attributes."""
        for prefix in self._prefixes:
            try:
                return os.getxattr(location, prefix + name, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise unreadable(location, error) from error
        return None

    def _claim(self, entry: SourceEntry, path: bytes, lower: bytes | None) -> SourceEntry:
        if self._claimed is not None:
            found = self._published_entry(path) if lower is not None else None
            entry.uid, entry.gid = (found.uid, found.gid) if found else (self._claimed.uid, self._claimed.gid)
        return entry
