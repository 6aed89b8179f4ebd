# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a change set to the directory tree of the next revision."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..catalog import MARKER, DirectoryEntry, WritableCatalogTree
from ..changes.archive import ArchiveSource
from ..changes.change_set import STANDARD_INPUT, Change, ChangeSet, Content, Deletion, Mode, Owner
from ..changes.directory import DirectorySource, count_files
from ..changes.entry import DIRECTORY_SIZE, FileContent, Listing, Source, SourceEntry
from ..content import BytesSource, Compression, ContentHash, ContentPipeline, ContentResult, ContentSource
from ..errors import SourceError, UnreadableSource, UsageError
from ..paths import ROOT, display, is_below, join
from ..paths import name as name_of
from ..progress import Progress

VIRTUAL_DIRECTORY = b".cvmfs"
"""What CernVM-FS itself makes in the root, with ``CVMFS_VIRTUAL_DIR``; no publish may touch it."""

ContentDone = Callable[[ContentResult], None]
"""What `apply_changes` gives to the pipeline along with each content."""

_UNREAD = FileContent(ContentHash(bytes(20)), (), Compression.ZLIB)
_POLL = 0.1
"""Seconds between two looks for errors while a large member of an archive is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOptions:
    """How to apply changes.

    :param owner: the repository's owner, to whom archives and newly made parent directories are given
    :param timestamp: modification time of newly made parent directories, in seconds since the epoch
    :param scratch_dir: room for a list of an archive's members
    :param checksum: read every file, also those whose attributes are as published
    :param mtime_ns: publish and compare modification times with nanoseconds: ``CVMFS_ENABLE_MTIME_NS``
    :param include_xattrs: publish and compare extended attributes: ``CVMFS_INCLUDE_XATTRS``
    :param ignore_special_files: leave out fifos, sockets and device nodes: ``CVMFS_IGNORE_SPECIAL_FILES``
    :param max_paths: how many paths of each kind the report names
    :param standard_input: what the source ``-`` is read from
    :param progress: told of files that are as published; the pipeline tells of those that it takes
    """

    owner: Owner
    timestamp: int
    scratch_dir: Path
    checksum: bool = False
    mtime_ns: bool = True
    include_xattrs: bool = False
    ignore_special_files: bool = False
    max_paths: int = 1000
    standard_input: BinaryIO | None = None
    progress: Progress | None = None


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

    @property
    def is_truncated(self) -> bool:
        """Whether more paths were added than are kept."""
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
    :param modified: paths whose content or attributes are different now, or whose type is
    :param removed: paths that are not there any more
    :param files: regular files whose content was taken
    :param bytes: of their content
    :param new_objects: objects that went to the store
    :param uploaded_bytes: of these objects
    :param warnings: what was left out or is published in another form, for people
    """

    added: PathList
    modified: PathList
    removed: PathList
    files: int = 0
    bytes: int = 0
    new_objects: int = 0
    uploaded_bytes: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Whether there is anything to publish."""
        return bool(self.added.count or self.modified.count or self.removed.count)


def apply_changes(
    tree: WritableCatalogTree,
    pipeline: ContentPipeline[ContentDone] | None,
    change_set: ChangeSet,
    options: ApplyOptions,
) -> ChangeReport:
    """Apply changes to a tree, one after the other, and have the content stored that they bring.

    A path stays as it is when type, size, mode, owner, modification time, symlink target, hard links and, where they
    are published, extended attributes are the same in source and tree. Of other regular files the content is read.

    For a dry run, pass None for the pipeline and throw the tree away. The report is the same, but for what concerns
    the store: a path whose attributes differ counts as modified whatever its content. Only with `checksum`
    content has a say; then pass a pipeline that takes all objects for known, and so stores none.

    :param tree: the next revision; of no more use after an error
    :param pipeline: where content goes; None to leave it unread
    :raises SourceError: when a source cannot be read, changes meanwhile, or has something that cannot be published
    :raises UsageError: when a path of the change set does not fit the repository
    :raises StorageError: when content cannot be stored, or a catalog cannot be fetched
    """
    return _Application(tree, pipeline, options).run(change_set.changes)


class _Contents:
    """Hands content to the pipeline, and the results on to whoever submitted it."""

    def __init__(self, pipeline: ContentPipeline[ContentDone], report: ChangeReport) -> None:
        self._pipeline = pipeline
        self._report = report

    def submit(self, source: ContentSource, done: Callable[[FileContent], None]) -> None:
        """Take content; `done` is called later, at the latest by `drain`."""

        def take(result: ContentResult) -> None:
            self._report.files += 1
            self._report.bytes += result.size
            self._report.new_objects += result.new_objects
            self._report.uploaded_bytes += result.uploaded_bytes
            done(FileContent(result.hash, result.chunks, result.compression))

        self._pipeline.submit(source, take)
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


class _Application:
    """Applies the changes of a set, one after the other."""

    def __init__(
        self,
        tree: WritableCatalogTree,
        pipeline: ContentPipeline[ContentDone] | None,
        options: ApplyOptions,
    ) -> None:
        self.tree = tree
        self.options = options
        self.report = ChangeReport(
            PathList(options.max_paths), PathList(options.max_paths), PathList(options.max_paths)
        )
        self.contents = _Contents(pipeline, self.report) if pipeline is not None else None

    def run(self, changes: Sequence[Change]) -> ChangeReport:
        self._show_totals(changes)
        for change in changes:
            if isinstance(change, Deletion):
                self._delete(change.path)
            else:
                with self._open(change) as source:
                    self._bring(change, source)
                    self.report.warnings += [f"{change.source}: {warning}" for warning in source.warnings]
        return self.report

    def remove(self, path: bytes, entry: DirectoryEntry) -> None:
        """Remove a path with all that is below it, and report that."""
        self.report.removed.add(path)
        if entry.is_directory:
            self.report_removed_content(path)
        self.tree.remove(path)

    def report_removed_content(self, directory: bytes) -> None:
        """Report that all that is below a directory is removed, without looking at more of it than is named."""
        removed = self.report.removed
        pending = [directory]
        while pending:
            path = pending.pop()
            for entry in self.tree.listing(path):
                child = join(path, entry.name)
                removed.add(child)
                if entry.is_nested_mountpoint and removed.is_truncated:
                    # Nested catalogs count their root once more.
                    counters = self.tree.catalog(child).statistics().total
                    removed.count += counters.entries - counters.nested - 1
                elif entry.is_directory and not entry.is_bind_mountpoint:
                    pending.append(child)

    def is_same(self, published: DirectoryEntry, entry: SourceEntry) -> bool:
        """Say whether the attributes that are published are those of the source."""
        options = self.options
        return (
            published.mtime == entry.mtime
            and published.mode == entry.mode
            and published.uid == entry.uid
            and published.gid == entry.gid
            and (published.size == entry.size or entry.is_directory)
            and published.symlink == entry.symlink
            and (published.mtime_ns == entry.mtime_ns or not options.mtime_ns)
            and (published.xattrs == entry.xattrs or not options.include_xattrs)
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
        )

    def count_done(self, entries: Sequence[SourceEntry]) -> None:
        """Count files as done that the pipeline does not see."""
        if self.options.progress is not None and entries and entries[0].is_regular:
            self.options.progress.add(files=len(entries), bytes=sum(entry.size for entry in entries))

    # Changes

    def _delete(self, path: bytes) -> None:
        _refuse_virtual(path)
        entry = self.tree.entry(path)
        if entry is None:
            self.report.warnings.append(f"/{display(path)} was to be deleted, but is not in the repository")
        else:
            self.remove(path, entry)

    def _bring(self, change: Content, source: Source) -> None:
        _refuse_virtual(change.base_dir)
        listings = source.listings()
        first = next(listings)
        if not first.entries and change.mode is Mode.MIRROR and not change.allow_empty:
            published = self.tree.entry(change.base_dir)
            if published is not None and any(self.tree.listing(change.base_dir)):
                raise SourceError(
                    f"{change.source} is empty; mirroring it would empty /{display(change.base_dir)}",
                    remedy="See whether the source is the right one. If so, use allow_empty",
                )
        merge = _Merge(self, change)
        merge.base(source.root())
        merge.directory(first)
        for listing in listings:
            merge.directory(listing)
        if self.contents is not None:
            self.contents.drain()
        source.verify()

    # Sources

    @contextlib.contextmanager
    def _open(self, change: Content) -> Iterator[Source]:
        options = self.options
        if _is_directory(change.source):
            yield DirectorySource(
                change.source,
                owner=change.owner,
                ignore_special_files=options.ignore_special_files,
                with_xattrs=options.include_xattrs,
            )
            return
        with contextlib.ExitStack() as stack:
            archive = ArchiveSource(
                self._open_archive(change.source, stack),
                "The archive on standard input" if change.source == STANDARD_INPUT else change.source,
                options.scratch_dir,
                owner=change.owner or (None if change.keep_ownership else options.owner),
                default_owner=change.owner or options.owner,
                timestamp=options.timestamp,
                ignore_special_files=options.ignore_special_files,
                with_xattrs=options.include_xattrs,
            )
            stack.enter_context(archive)
            archive.load(_ArchiveContents(self, self.contents, change.base_dir) if self.contents else None)
            yield archive

    def _open_archive(self, source: str, stack: contextlib.ExitStack) -> BinaryIO:
        if source == STANDARD_INPUT:
            if self.options.standard_input is None:
                raise UsageError("There is no standard input to read an archive from", remedy="Name a file")
            return self.options.standard_input
        try:
            return stack.enter_context(open(source, "rb"))
        except OSError as error:
            raise UnreadableSource(
                f"Cannot read {source}: {error.strerror}",
                remedy="Name a directory or a tar archive that the publishing user may read",
            ) from error

    def _show_totals(self, changes: Sequence[Change]) -> None:
        """Tell how much there is to do, if all of it is in directories."""
        sources = [change.source for change in changes if isinstance(change, Content)]
        if self.options.progress is not None and all(map(_is_directory, sources)):
            totals = [count_files(source) for source in sources]
            self.options.progress.set_total(
                files=sum(total.files for total in totals), bytes=sum(total.bytes for total in totals)
            )


class _ArchiveContents:
    """Takes the content of an archive's files, but for those that are as published."""

    def __init__(self, application: _Application, contents: _Contents, base_dir: bytes) -> None:
        self._application = application
        self._base_dir = base_dir
        base = application.tree.entry(base_dir)
        self._is_new = base is None or not base.is_directory or application.options.checksum
        self.submit = contents.submit
        self.wait = contents.wait
        self.drain = contents.drain

    def published(self, path: bytes, entry: SourceEntry) -> FileContent | None:
        """Return the published content of a file whose attributes are as published."""
        if self._is_new:
            return None
        published = self._application.tree.entry(join(self._base_dir, path))
        if published is None or not self._application.is_same(published, entry):
            return None
        self._application.count_done([entry])
        return _content_of(published)


class _Merge:
    """Brings the directories of one source into the tree."""

    def __init__(self, application: _Application, change: Content) -> None:
        self._application = application
        self._tree = application.tree
        self._report = application.report
        self._change = change
        self._published: set[bytes] = set()
        """Directories that are still to come, and were in the tree before."""

    def base(self, root: SourceEntry) -> None:
        """Make the base directory, or give it the attributes of the source's root."""
        base_dir = self._change.base_dir
        for end in [index for index, byte in enumerate(base_dir) if byte == ord("/")]:
            self._make_parent(base_dir[:end])
        published = self._tree.entry(base_dir)
        if published is not None and not published.is_directory:
            raise _not_a_directory(base_dir)
        self._put_directory(base_dir, root, published)

    def directory(self, listing: Listing) -> None:
        """Make a directory of the tree what the source's is."""
        path = join(self._change.base_dir, listing.path) if listing.path else self._change.base_dir
        published = {}
        if path in self._published:
            self._published.remove(path)
            published = {entry.name: entry for entry in self._tree.listing(path)}
        if path == ROOT:
            published.pop(VIRTUAL_DIRECTORY, None)
        entries = {entry.name: entry for entry in listing.entries}
        self._mark_nested(path, entries, published)
        if self._change.mode is Mode.MIRROR:
            for name, old in published.items():
                if name not in entries:
                    self._application.remove(join(path, name), old)
        groups = _link_groups(published.values())
        linked: dict[object, list[SourceEntry]] = {}
        for entry in entries.values():
            if path == ROOT:
                _refuse_virtual(entry.name)
            if entry.is_directory:
                self._put_directory(join(path, entry.name), entry, published.get(entry.name))
            elif entry.link_group is None:
                self._put_file(path, [entry], published, groups)
            else:
                linked.setdefault(entry.link_group, []).append(entry)
        for links in linked.values():
            self._put_file(path, links, published, groups)

    def _make_parent(self, path: bytes) -> None:
        published = self._tree.entry(path)
        if published is None:
            options = self._application.options
            entry = SourceEntry(
                name=name_of(path),
                mode=stat.S_IFDIR | 0o755,
                uid=options.owner.uid,
                gid=options.owner.gid,
                size=DIRECTORY_SIZE,
                mtime=options.timestamp,
                mtime_ns=0,
            )
            self._put_directory(path, entry, None)
        elif not published.is_directory:
            raise _not_a_directory(path)

    def _mark_nested(
        self, path: bytes, entries: dict[bytes, SourceEntry], published: dict[bytes, DirectoryEntry]
    ) -> None:
        """Turn a directory into a nested catalog before anything is in it, if it will be one."""
        if self._change.nested_catalog and path == self._change.base_dir != ROOT and MARKER not in entries:
            if MARKER in published:
                published.pop(MARKER)  # and it stays as it is
            else:
                options = self._application.options
                entries[MARKER] = SourceEntry(
                    name=MARKER,
                    mode=stat.S_IFREG | 0o644,
                    uid=options.owner.uid,
                    gid=options.owner.gid,
                    size=0,
                    mtime=options.timestamp,
                    mtime_ns=0,
                    content=BytesSource(b"", "the mark of a nested catalog"),
                )
        if MARKER in entries and entries[MARKER].is_regular and path != ROOT and MARKER not in published:
            self._tree.create_nested(path)

    def _put_directory(self, path: bytes, entry: SourceEntry, published: DirectoryEntry | None) -> None:
        if published is None:
            self._tree.add(path, self._application.to_published(entry))
            self._report.added.add(path)
        elif published.is_directory:
            self._published.add(path)
            if not entry.implied and not self._application.is_same(published, entry):
                self._tree.touch(path, self._application.to_published(entry))
                self._report.modified.add(path)
        elif entry.implied and self._change.mode is Mode.MERGE:
            raise _not_a_directory(path)
        else:
            self._tree.replace(path, self._application.to_published(entry))
            self._report.modified.add(path)

    def _put_file(
        self,
        directory: bytes,
        links: list[SourceEntry],
        published: Mapping[bytes, DirectoryEntry],
        groups: Mapping[int, set[bytes]],
    ) -> None:
        """Make a file, symlink or special file of the tree what the source's is.

        :param links: its names in the directory; their attributes and content are the same
        :param published: what is in the tree's directory now
        :param groups: names of the hard links among that
        """
        application = self._application
        entry = links[0]
        old = [published.get(link.name) for link in links]
        is_same = (
            old[0] is not None
            and all(item is not None and application.is_same(item, entry) for item in old)
            and groups.get(old[0].hardlink_group, {entry.name}) == {link.name for link in links}
        )
        contents = application.contents
        if is_same and (not entry.is_regular or contents is None or not application.options.checksum):
            if not isinstance(entry.content, FileContent):
                application.count_done(links)
            return
        for link, item in zip(links, old, strict=True):
            if item is not None and item.is_directory:
                self._refuse_to_empty(join(directory, link.name))

        def store(content: FileContent | None) -> None:
            if not (is_same and old[0] is not None and content == _content_of(old[0])):
                self._store_file(directory, links, old, application.to_published(entry, content))

        if not entry.is_regular:
            store(None)
        elif isinstance(entry.content, FileContent):
            store(entry.content)
        elif contents is None or entry.content is None:
            application.count_done(links)
            store(_UNREAD)
        else:
            application.count_done(links[1:])
            contents.submit(entry.content, store)

    def _store_file(
        self,
        directory: bytes,
        links: list[SourceEntry],
        old: list[DirectoryEntry | None],
        entry: DirectoryEntry,
    ) -> None:
        paths = [join(directory, link.name) for link in links]
        for path, item in zip(paths, old, strict=True):
            if item is None:
                self._report.added.add(path)
            else:
                self._report.modified.add(path)
                if item.is_directory:
                    self._application.report_removed_content(path)
                if len(links) > 1:
                    self._tree.remove(path)
        if len(links) == 1 and old[0] is not None:
            self._tree.replace(paths[0], entry)
        else:
            self._tree.add(paths[0], entry)
        for path in paths[1:]:
            self._tree.link(paths[0], path)

    def _refuse_to_empty(self, path: bytes) -> None:
        """Keep a merge from removing what is in a directory."""
        if self._change.mode is Mode.MERGE and any(self._tree.listing(path)):
            raise SourceError(
                f"/{display(path)} is a directory with something in it, but a file in {self._change.source}",
                remedy="Delete the directory in the same change set, before the content, or use mode mirror",
            )


def _content_of(entry: DirectoryEntry) -> FileContent:
    return FileContent(entry.hash, entry.chunks, entry.compression)


def _link_groups(entries: Iterable[DirectoryEntry]) -> dict[int, set[bytes]]:
    """Return the names of each group of hard links in a directory."""
    groups: dict[int, set[bytes]] = {}
    for entry in entries:
        if entry.hardlink_group:
            groups.setdefault(entry.hardlink_group, set()).add(entry.name)
    return groups


def _is_directory(source: str) -> bool:
    return source != STANDARD_INPUT and os.path.isdir(source)


def _refuse_virtual(path: bytes) -> None:
    if is_below(path, VIRTUAL_DIRECTORY):
        raise UsageError(
            f"/{display(path)} belongs to CernVM-FS itself and cannot be changed",
            remedy=f"Leave /{display(VIRTUAL_DIRECTORY)} out of what is published",
        )


def _not_a_directory(path: bytes) -> UsageError:
    return UsageError(
        f"/{display(path)} is not a directory in the repository, and nothing can be put below it",
        remedy="Publish elsewhere, or delete it in the same change set, before the content",
    )
