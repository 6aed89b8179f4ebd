# SPDX-License-Identifier: GPL-3.0-or-later
"""The next revision's tree while changes are applied to it, and the report of what they did."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Sequence

from ..catalog import AUTO_MARKER, MARKER, DirectoryEntry, WritableCatalogTree
from ..content import (
    BytesSource,
    Compression,
    ContentHash,
    ContentPipeline,
    ContentResult,
    ContentSource,
)
from ..errors import SourceError, UsageError
from ..paths import display, is_below, join, parent
from ..paths import name as name_of
from .change_set import Owner
from .dirtab import DIRTAB, Dirtab
from .entry import DIRECTORY_SIZE, FileContent, Origin, SourceEntry
from .options import ApplyOptions
from .report import ChangeReport, Tally

VIRTUAL_DIRECTORY = b".cvmfs"
"""What CernVM-FS itself makes in the root, with ``CVMFS_VIRTUAL_DIR``; no publish may touch it."""

UNREAD = FileContent(ContentHash(bytes(20)), (), Compression.ZLIB)
"""Stands for the content of files in a dry run."""

ContentDone = Callable[[ContentResult], None]
"""What goes through the pipeline along with each content."""

_POLL = 0.1
"""Seconds between two looks for errors while content is waited for."""


class Contents:
    """Hands content to the pipeline, and what became of it to whoever submitted it."""

    def __init__(self, pipeline: ContentPipeline[ContentDone], report: ChangeReport, options: ApplyOptions) -> None:
        self._pipeline = pipeline
        self._report = report
        self._external = options.external
        self._direct_io = options.direct_io

    def submit(self, source: ContentSource, done: Callable[[FileContent], None], name: bytes) -> None:
        """Take the content of a file; `done` is called later, at the latest by `drain`, in the thread that calls these
        methods.

        :param name: the file's; those that the publisher itself has to read are never external
        """
        external = self._external and name not in (MARKER, AUTO_MARKER, DIRTAB)

        def take(result: ContentResult) -> None:
            self._report.files += 1
            self._report.bytes += result.size
            self._report.new_objects += result.new_objects
            self._report.known_objects += max((len(result.chunks) or 1) - result.new_objects, 0)
            self._report.uploaded_bytes += result.uploaded_bytes
            done(FileContent(result.hash, result.chunks, result.compression, external, self._direct_io))

        self._pipeline.submit(source, take, upload=not external)
        for result, then in self._pipeline.completed():
            then(result)

    def wait(self, event: threading.Event) -> None:
        """Return when `event` is set.

        :raises PublisherError: when content could not be read or stored
        """
        while not event.wait(_POLL):
            for result, then in self._pipeline.completed():
                then(result)

    def drain(self) -> None:
        """Return when all content has been taken.

        :raises PublisherError: when content could not be read or stored
        """
        for result, then in self._pipeline.drain():
            then(result)


class Draft:
    """The tree, and what belongs to it while changes are made.

    :param tree: the next revision
    :param pipeline: where content goes; None for a dry run, which leaves content unread
    """

    def __init__(
        self,
        tree: WritableCatalogTree,
        pipeline: ContentPipeline[ContentDone] | None,
        options: ApplyOptions,
    ) -> None:
        self.tree = tree
        self.options = options
        self.report = ChangeReport.empty(options.max_paths, options.tell)
        self.contents = Contents(pipeline, self.report, options) if pipeline is not None else None
        self.dirtab = Dirtab()
        self.dirtab_error: SourceError | None = None
        """Why the published ``.cvmfsdirtab`` cannot be used, unless a change has replaced it."""
        self.unmarked: set[bytes] = set()
        """Directories that may lack the marker that ``.cvmfsdirtab`` wants, but for those that a source lists."""
        self.markers_removed: set[bytes] = set()
        """Directories whose marker somebody took away."""

    def made_up(self, path: bytes, mode: int, owner: Owner | None = None) -> SourceEntry:
        """Return an entry that no source has.

        :param mode: type and permission bits; a file is empty
        :param owner: by default the repository's
        """
        owner = owner or self.options.owner
        is_directory = stat.S_ISDIR(mode)
        return SourceEntry(
            name=name_of(path),
            mode=mode,
            uid=owner.uid,
            gid=owner.gid,
            size=DIRECTORY_SIZE if is_directory else 0,
            mtime=self.options.timestamp,
            mtime_ns=0,
            content=None if is_directory else BytesSource(b"", display(path)),
        )

    def is_same(self, published: DirectoryEntry, entry: SourceEntry) -> bool:
        """Say whether the attributes of a path in the tree are those in the source; content does not count."""
        return (
            published.mtime == entry.mtime
            and published.mode == entry.mode
            and published.uid == entry.uid
            and published.gid == entry.gid
            and (published.size == entry.size or entry.is_directory)
            and published.symlink == entry.symlink
            and (published.mtime_ns == entry.mtime_ns or not self.options.mtime_ns)
            and (published.xattrs == entry.xattrs or not self.options.include_xattrs)
        )

    def to_published(self, entry: SourceEntry, content: FileContent | None = None) -> DirectoryEntry:
        """Return the catalog's form of an entry."""
        return DirectoryEntry(
            name=entry.name,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            size=entry.size,
            mtime=entry.mtime,
            mtime_ns=entry.mtime_ns if self.options.mtime_ns else None,
            symlink=entry.symlink,
            xattrs=entry.xattrs,
            hash=content.hash if content else None,
            chunks=content.chunks if content else (),
            compression=content.compression if content else Compression.ZLIB,
            is_external=content is not None and content.is_external,
            is_direct_io=content is not None and content.is_direct_io,
        )

    def check_size(self, path: bytes, size: int) -> None:
        """Warn of a file that is too large.

        :raises SourceError: when it may not be published
        """
        warning = self.options.limits.check_file(path, size)
        if warning is not None:
            self.report.warnings.append(warning)

    def remove(self, path: bytes, entry: DirectoryEntry) -> None:
        """Remove a path with all that is below it, and report that."""
        self.report.removed.add(path, entry)
        if name_of(path) == MARKER:
            self.unmarked.add(parent(path))
            self.markers_removed.add(parent(path))
        if entry.is_directory:
            self.report_removed_content(path)
        self.tree.remove(path)

    def warn_of_marker(self, directory: bytes) -> None:
        """Say that a directory is a nested catalog in spite of what somebody did."""
        self.report.warnings.append(
            f"The marker /{display(join(directory, MARKER))} was removed, but stays, as /{display(DIRTAB)} means that "
            "directory. To have no nested catalog there, exclude it in the rules first."
        )

    def copy(self, origin: Origin, directory: bytes) -> None:
        """Add all that is below a directory of another revision to a new directory, and report that."""
        first_names: dict[tuple[bytes, int], bytes] = {}
        for path, entry in origin.tree.walk(origin.path):
            if path == origin.path:
                continue
            new = join(directory, path[len(join(origin.path, b"")) :])
            self.report.added.add(new, entry)
            if entry.is_directory:
                self.unmarked.add(new)
            first = first_names.setdefault((parent(new), entry.hardlink_group), new) if entry.hardlink_group else new
            if first == new:
                self.tree.add(new, entry)
            else:
                self.tree.link(first, new)

    def report_removed_content(self, directory: bytes) -> None:
        """Report that all that is below a directory is removed, looking at no more of it than can be named."""
        removed = self.report.removed
        pending = [directory]
        while pending:
            path = pending.pop()
            for entry in self.tree.listing(path):
                child = join(path, entry.name)
                removed.add(child, entry)
                if entry.is_nested_mountpoint and removed.is_full:
                    # A nested catalog counts its root, which is counted here already.
                    counters = self.tree.catalog(child).statistics().total
                    files, directories = counters.regular + counters.special, counters.dir - counters.nested - 1
                    removed.add_unnamed(
                        counters.entries - counters.nested - 1,
                        Tally(files, directories, counters.symlink, counters.file_size),
                    )
                elif entry.is_directory and not entry.is_bind_mountpoint:
                    pending.append(child)

    def count_done(self, entries: Sequence[SourceEntry]) -> None:
        """Count files as done that the pipeline is not given, all of them names of one file."""
        if self.options.progress is not None and entries and entries[0].is_regular:
            self.options.progress.add(files=len(entries), bytes=len(entries) * entries[0].size)


def content_of(entry: DirectoryEntry) -> FileContent:
    """Return what a catalog says about the content of a file."""
    return FileContent(entry.hash, entry.chunks, entry.compression, entry.is_external, entry.is_direct_io)


def refuse_virtual(path: bytes) -> None:
    """Refuse to touch what is not a publisher's.

    :raises UsageError: when `path` is there
    """
    if is_below(path, VIRTUAL_DIRECTORY):
        raise UsageError(
            f"/{display(path)} belongs to CernVM-FS itself and cannot be changed",
            remedy=f"Leave /{display(VIRTUAL_DIRECTORY)} out of what is published",
        )
