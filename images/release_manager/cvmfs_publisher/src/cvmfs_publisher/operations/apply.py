# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a change set to the directory tree of the next revision."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..catalog import CatalogTree, WritableCatalogTree
from ..changes.archive import ArchiveSource, TarOptions, TarSource
from ..changes.bucket import BucketSource
from ..changes.change_set import STANDARD_INPUT, Change, ChangeSet, Content, Deletion, Mode, UnionChanges
from ..changes.decompress import is_compressed, open_tar_stream
from ..changes.directory import DirectorySource, count_files
from ..changes.dirtab import DIRTAB, MAX_SIZE, Dirtab
from ..changes.draft import ContentDone, Draft, refuse_virtual
from ..changes.entry import Source
from ..changes.image import Image, ImageSource
from ..changes.merge import Merge, PublishedContents
from ..changes.nested import apply_dirtab, balance
from ..changes.options import ApplyOptions
from ..changes.report import ChangeReport, PathList
from ..changes.tar_format import TRANSFER
from ..changes.union import UnionSource
from ..content import ContentPipeline, fetch_file
from ..errors import SourceError, UnreadableSource, UnsafeArchive, UsageError
from ..paths import ROOT, display, is_below
from ..progress import Progress
from ..storage import open_bucket
from .environment import writing_to

__all__ = ["ApplyOptions", "ChangeReport", "ContentDone", "PathList", "apply_changes"]


_MOST_NAMES = 5
_COPY_BUFFER = 1 << 20  # bytes


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
    the store: a path whose attributes differ counts as modified whatever its content. Content only has a say with
    `checksum`; then pass a pipeline that takes all objects for known, and so stores none.

    :param tree: the next revision; of no more use after an error
    :param pipeline: where content goes; None to leave it unread
    :raises SourceError: when a source cannot be read, changes meanwhile, or has something that cannot be published
    :raises UsageError: when a path of the change set does not fit the repository
    :raises StorageError: when content cannot be stored, or a catalog cannot be fetched
    """
    draft = Draft(tree, pipeline, options)
    with _totals_shown(change_set.changes, options.progress):
        _apply(draft, change_set)
    return draft.report


def _apply(draft: Draft, change_set: ChangeSet) -> None:
    options = draft.options
    dirtab = draft.dirtab = _published_dirtab(draft)
    if options.cloned is not None:
        path, entries = options.cloned
        draft.report.added.add(path)
        draft.report.added.add_unnamed(entries - 1)
    for change in change_set.changes:
        if isinstance(change, Deletion):
            _delete(draft, change.path)
            continue
        if isinstance(change, UnionChanges):
            _apply_union(draft, change)
            continue
        label = _label(change.source)
        with _open(draft, change, label) as source:
            Merge(draft, change, source, label).run()
            draft.report.warnings += [f"{label}: {warning}" for warning in source.warnings]
    if draft.report.changed:
        _finish(draft, dirtab if options.cloned is None else None)


def _published_dirtab(draft: Draft) -> Dirtab:
    """Return the rules that are in force when changes begin."""
    entry = draft.tree.entry(DIRTAB)
    if entry is None or not entry.is_regular or entry.is_external:
        return Dirtab()
    try:
        if entry.size > MAX_SIZE:
            raise SourceError(f"/{display(DIRTAB)} is too large for a list of rules", remedy="Publish a shorter one")
        return Dirtab.parse(fetch_file(draft.options.store, entry.hash, entry.chunks, entry.compression))
    except SourceError as error:
        draft.dirtab_error = error  # which a change may put right
        return Dirtab()


def _finish(draft: Draft, dirtab: Dirtab | None) -> None:
    """See to the nested catalogs when all changes are made.

    :param dirtab: the rules that all was published by when they began, if it was
    """
    if draft.dirtab_error is not None:
        raise draft.dirtab_error
    entry = draft.tree.entry(DIRTAB)
    if entry is not None and (not entry.is_regular or entry.is_external):
        draft.report.warnings.append(
            f"/{display(DIRTAB)} is {'an external' if entry.is_external else 'no regular'} file, so no rules are taken "
            "from it. Publish the rules themselves under that name."
        )
    apply_dirtab(draft, dirtab)
    if draft.options.balance is not None:
        balance(draft, draft.options.balance)
    for path in draft.tree.changed_catalogs():
        warning = draft.options.limits.check_catalog(path, draft.tree.catalog(path).count_entries())
        if warning is not None:
            draft.report.warnings.append(warning)


def _delete(draft: Draft, path: bytes) -> None:
    refuse_virtual(path)
    entry = draft.tree.entry(path)
    if entry is None:
        draft.report.warnings.append(f"/{display(path)} was to be deleted, but is not in the repository")
        return
    draft.remove(path, entry)
    if path == DIRTAB:
        draft.dirtab = Dirtab()
        draft.dirtab_error = None


def _apply_union(draft: Draft, change: UnionChanges) -> None:
    options = draft.options
    with contextlib.ExitStack() as stack:

        @functools.cache
        def base() -> CatalogTree:
            return stack.enter_context(CatalogTree(options.store, change.base, options.scratch_dir))

        source = UnionSource(
            change.directory,
            change.kind,
            change.label,
            published=draft.tree.entry,
            base=base,
            claimed=change.claimed,
            ignore_special_files=options.ignore_special_files,
            with_xattrs=options.include_xattrs,
        )
        _refuse_outside(draft, change, source)
        content = Content(change.directory, ROOT, Mode.MIRROR, allow_empty=True)
        # A file is in the scratch area because it was written to, whatever its attributes say
        Merge(draft, content, source, change.label, checksum=True).run()
        draft.report.warnings += [f"{change.label}: {warning}" for warning in source.warnings]


def _refuse_outside(draft: Draft, change: UnionChanges, source: UnionSource) -> None:
    """Refuse changes outside the directory that they are to be in."""
    outside = []
    for path, entry in source.changed_outside(change.path) if change.path else ():
        published = draft.tree.entry(path)
        is_above = entry is not None and is_below(change.path, path)
        if not (is_above and entry is not None and published is not None and draft.is_same(published, entry)):
            outside.append(f"/{display(path)}")
    if outside:
        names = ", ".join(sorted(outside)[:_MOST_NAMES]) + (", …" if len(outside) > _MOST_NAMES else "")
        raise UsageError(
            f"{change.label} was changed outside /{display(change.path)}, which the transaction is for: {names}",
            remedy="Undo that, or abort and open the transaction for a directory above",
        )


@contextlib.contextmanager
def _open(draft: Draft, change: Content, label: str) -> Iterator[Source]:
    """Open a directory or bucket, or an archive or image, whose content is taken at once."""
    options = draft.options
    if _is_directory(change):
        yield DirectorySource(
            change.source,
            owner=change.owner,
            ignore_special_files=options.ignore_special_files,
            with_xattrs=options.include_xattrs,
        )
        return
    how: TarOptions = {
        "owner": change.owner or (None if change.keep_ownership else options.owner),
        "default_owner": change.owner or options.owner,
        "timestamp": options.timestamp,
        "ignore_special_files": options.ignore_special_files,
        "with_xattrs": options.include_xattrs,
    }
    with contextlib.ExitStack() as stack:
        if change.s3_prefix is not None:
            store = open_bucket(change.source, change.s3_prefix.strip("/"))
            bucket = f"{change.s3_prefix.strip('/') or 'all'} in {store.describe()}"
            yield stack.enter_context(
                BucketSource(
                    store,
                    bucket,
                    options.scratch_dir,
                    owner=change.owner or options.owner,
                    timestamp=options.timestamp,
                )
            )
            return
        source: TarSource
        if change.image:
            place = stack.enter_context(_image_place(change.source, label, options))
            image = Image(place, display(os.fsencode(change.source)), change.image_reference)
            source = stack.enter_context(ImageSource(image, label, options.scratch_dir, **how))
        else:
            stream = stack.enter_context(_open_archive(change.source, options.standard_input))
            source = stack.enter_context(ArchiveSource(stream, label, options.scratch_dir, **how))
        source.load(PublishedContents(draft, draft.contents, change.base_dir) if draft.contents else None)
        yield source


@contextlib.contextmanager
def _image_place(source: str, label: str, options: ApplyOptions) -> Iterator[Path]:
    """Yield where an image is that can be read in any order: a copy, if it is compressed or comes in a stream."""
    if source != STANDARD_INPUT and (os.path.isdir(source) or not _is_compressed(source)):
        yield Path(source)
        return
    with _open_archive(source, options.standard_input) as stream, contextlib.ExitStack() as stack:
        try:
            with writing_to(options.scratch_dir):
                copy = stack.enter_context(tempfile.NamedTemporaryFile(dir=options.scratch_dir, prefix="image-"))
                shutil.copyfileobj(open_tar_stream(stream, label), copy, _COPY_BUFFER)
                copy.flush()
        except EOFError:
            raise UnsafeArchive(f"{label} is cut short", remedy=TRANSFER) from None
        yield Path(copy.name)


def _is_compressed(source: str) -> bool:
    with _open_archive(source, None) as stream:
        return is_compressed(stream.read(6))


@contextlib.contextmanager
def _open_archive(source: str, standard_input: BinaryIO | None) -> Iterator[BinaryIO]:
    if source == STANDARD_INPUT:
        if standard_input is None:
            raise UsageError("There is no standard input to read an archive from", remedy="Name a file")
        yield standard_input
        return
    try:
        stream = open(source, "rb")  # noqa: SIM115
    except OSError as error:
        raise UnreadableSource(
            f"Cannot read {_label(source)}: {error.strerror}",
            remedy="Name a directory or a tar archive that the publishing user may read",
        ) from error
    with stream:
        yield stream


def _label(source: str) -> str:
    return "The archive on standard input" if source == STANDARD_INPUT else display(os.fsencode(source))


def _is_directory(change: Content) -> bool:
    is_plain = not change.image and change.s3_prefix is None
    return is_plain and change.source != STANDARD_INPUT and os.path.isdir(change.source)


@contextlib.contextmanager
def _totals_shown(changes: Sequence[Change], progress: Progress | None) -> Iterator[None]:
    """Find out how much there is to do while it is being done, if all is in directories; of archives nobody knows.

    On a network file system, that takes as long as to compare a release in which nothing has changed.
    """
    contents = [change for change in changes if isinstance(change, Content)]
    if progress is None or not all(map(_is_directory, contents)):
        yield
        return
    stop = threading.Event()

    def count(shown: Progress) -> None:
        totals = [count_files(change.source, stop) for change in contents]
        if not stop.is_set():
            shown.set_total(files=sum(total.files for total in totals), bytes=sum(total.bytes for total in totals))

    thread = threading.Thread(target=count, args=(progress,), name="totals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
