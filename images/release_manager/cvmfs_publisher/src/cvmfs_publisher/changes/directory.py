# SPDX-License-Identifier: GPL-3.0-or-later
"""Content from a directory.

Whoever may write to it may exchange directories for symlinks while it is read. So each directory has to be the one that
was found in its parent, and each file the one that was found in its directory (`FileSource`): nothing else is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator, Mapping

from ..content import FileSource
from ..errors import SourceChanged, SourceError, UnreadableSource
from ..paths import ROOT, display, join
from .change_set import Owner
from .dirtab import DIRTAB
from .entry import DIRECTORY_SIZE, NO_XATTRS, XATTR_LIMITS, Listing, SourceEntry, Totals, storable_xattrs
from .special import REMOVE_SPECIAL, is_device, special_kind

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


class DirectorySource:
    """A directory and all that is below it. Symlinks are content and not followed, but for the directory itself.

    :param directory: the root
    :param owner: whom everything is given to, or None to keep the owners
    :param ignore_special_files: leave out fifos, sockets and device nodes
    :param with_xattrs: read extended attributes
    :raises UnreadableSource: when it does not exist or cannot be read
    :raises SourceError: when it is not a directory
    """

    def __init__(
        self,
        directory: str,
        *,
        owner: Owner | None = None,
        ignore_special_files: bool = False,
        with_xattrs: bool = False,
    ) -> None:
        self._root = os.path.realpath(os.fsencode(directory))
        self._owner = owner
        self._ignore_special_files = ignore_special_files
        self._with_xattrs = with_xattrs
        self._seen: dict[bytes, int] = {}
        """Directories as they were when their own attributes were read."""
        self._dirtab: FileSource | None = None
        self._skipped = 0
        self._lost_xattrs = 0
        self._split_links = 0
        try:
            self._root_status = os.stat(self._root)
        except OSError as error:
            raise unreadable(self._root, error) from error
        if not stat.S_ISDIR(self._root_status.st_mode):
            raise SourceError(f"{display(self._root)} is not a directory", remedy="Name a directory or a tar archive")
        self._seen[self._root] = _identity(self._root_status)

    def root(self) -> SourceEntry:
        """Return the root's own attributes."""
        return self._entry(b"", self._root, self._root_status)

    def listings(self) -> Iterator[Listing]:
        """Yield all directories, the root first, each before those below it, in the order of their bytes.

        :raises UnreadableSource: when a directory, or something in it, cannot be read
        :raises SourceChanged: when a directory changes meanwhile
        :raises SourceError: when there is a device node
        """
        pending = [ROOT]
        while pending:
            path = pending.pop()
            entries = self._list(self._root + b"/" + path if path else self._root)
            yield Listing(path, entries)
            pending.extend(join(path, entry.name) for entry in reversed(entries) if entry.is_directory)

    def dirtab(self) -> bytes:
        """Return the content of the ``.cvmfsdirtab`` in the root, a regular file that was listed.

        :raises SourceError: when it cannot be read, or is not what was listed
        """
        if self._dirtab is None:
            raise _changed(self._root)
        with contextlib.closing(self._dirtab.open()) as reader:
            text, buffer = bytearray(), memoryview(bytearray(1 << 16))
            while count := reader.readinto(buffer):
                text += buffer[:count]
        return bytes(text)

    def verify(self) -> None:
        """Look whether any directory has changed since it was listed.

        :raises SourceChanged: if so
        """
        for location, seen in self._seen.items():
            try:
                is_same = _identity(os.stat(location, follow_symlinks=False)) == seen
            except OSError:
                is_same = False
            if not is_same:
                raise _changed(location)

    @property
    def warnings(self) -> list[str]:
        """What was left out or is published in another form, for people."""
        warnings = []
        if self._skipped:
            warnings.append(f"{self._skipped} fifos, sockets and device nodes were left out")
        if self._lost_xattrs:
            warnings.append(f"{self._lost_xattrs} extended attributes were left out; {XATTR_LIMITS}")
        if self._split_links:
            warnings.append(
                f"{self._split_links} files have hard links in other directories; they are published as separate files"
            )
        return warnings

    def _list(self, location: bytes) -> list[SourceEntry]:
        try:
            descriptor = os.open(location, _OPEN)
            try:
                if _identity(os.fstat(descriptor)) != self._seen[location]:
                    raise _changed(location)
                with os.scandir(descriptor) as scan:
                    found = sorted((os.fsencode(item.name), item) for item in scan)
                statuses = [(name, item.stat(follow_symlinks=False)) for name, item in found]
                return self._entries(location, statuses, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise _changed(location) from error
            raise unreadable(location, error) from error

    def _entries(
        self, location: bytes, found: list[tuple[bytes, os.stat_result]], descriptor: int
    ) -> list[SourceEntry]:
        entries = []
        links: dict[tuple[int, int, int], list[SourceEntry]] = {}
        for name, status in found:
            path = location + b"/" + name
            # By the directory itself: another may have taken its place in the tree
            entry = self._entry(name, b"/proc/self/fd/%d/%s" % (descriptor, name), status)
            if entry.is_directory:
                self._seen[path] = _identity(status)
            elif entry.is_regular:
                entry.content = source = FileSource(path, status)
                if name == DIRTAB and location == self._root:
                    self._dirtab = source
            elif entry.is_symlink:
                entry.symlink = os.readlink(name, dir_fd=descriptor)
                entry.size = len(entry.symlink)
            else:
                if self._ignore_special_files:
                    self._skipped += 1
                    continue
                if is_device(entry.mode):
                    raise SourceError(f"{display(path)} is {special_kind(entry.mode)}", remedy=REMOVE_SPECIAL)
            if status.st_nlink > 1 and not entry.is_directory:
                entry.link_group = inode = (status.st_dev, status.st_ino, status.st_nlink)
                links.setdefault(inode, []).append(entry)
            entries.append(entry)
        for (_, _, expected), group in links.items():
            if len(group) < expected:
                self._split_links += len(group)
            if len(group) == 1:
                group[0].link_group = None
        return entries

    def _entry(self, name: bytes, path: bytes, status: os.stat_result) -> SourceEntry:
        """Return an entry.

        :param path: where its extended attributes are read
        """
        mtime, mtime_ns = divmod(status.st_mtime_ns, 10**9)
        is_directory = stat.S_ISDIR(status.st_mode)
        return SourceEntry(
            name=name,
            mode=status.st_mode,
            uid=self._owner.uid if self._owner else status.st_uid,
            gid=self._owner.gid if self._owner else status.st_gid,
            size=DIRECTORY_SIZE if is_directory else status.st_size if stat.S_ISREG(status.st_mode) else 0,
            mtime=mtime,
            mtime_ns=mtime_ns,
            xattrs=self._xattrs(path) if self._with_xattrs else NO_XATTRS,
        )

    def _xattrs(self, path: bytes) -> Mapping[bytes, bytes]:
        found = _xattrs(path)
        kept = storable_xattrs(found)
        self._lost_xattrs += len(found) - len(kept)
        return kept


def count_files(directory: str, stop: threading.Event) -> Totals:
    """Count regular files and their bytes below a directory, as far as they can be read; for showing progress only.

    :param stop: once set, what is counted by then is returned
    """
    files = size = 0
    pending = [os.fsencode(directory)]
    while pending and not stop.is_set():
        try:
            with os.scandir(pending.pop()) as scan:
                for item in scan:
                    if item.is_dir(follow_symlinks=False):
                        pending.append(item.path)
                    elif item.is_file(follow_symlinks=False):
                        files += 1
                        size += item.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return Totals(files, size)


def _xattrs(path: bytes) -> Mapping[bytes, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return NO_XATTRS
        raise
    if not names:
        return NO_XATTRS
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def unreadable(location: bytes, error: OSError) -> UnreadableSource:
    """Return the error that the system gives for reading a path."""
    return UnreadableSource(
        f"Cannot read {display(location)}: {error.strerror}",
        remedy="See that the file exists, and that the publishing user may read it",
    )


def _identity(status: os.stat_result) -> int:
    """Return what tells a directory from another, and from what it was before a change; a number takes least memory."""
    return status.st_dev << 128 | status.st_ino << 64 | status.st_ctime_ns


def _changed(location: bytes) -> SourceChanged:
    return SourceChanged(
        f"Directory {display(location)} changed while it was being read",
        remedy="Wait until nothing writes there, and publish again",
    )
