# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the content of a source into a tree, directory by directory.

As rsync does, a merge replaces files and symlinks by directories of the same name, and empty directories by files; a
directory with something in it is not replaced, but refused. Attributes of directories are always those of the source.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..catalog import AUTO_MARKER, MARKER, DirectoryEntry
from ..content import fetch_file
from ..errors import SourceError, UsageError
from ..paths import ROOT, display, join
from .change_set import Content, Mode, Owner
from .dirtab import DIRTAB, MAX_SIZE, Dirtab
from .draft import UNREAD, VIRTUAL_DIRECTORY, Contents, Draft, content_of, refuse_virtual
from .entry import FileContent, Listing, Source, SourceEntry
from .graft import GRAFT_PREFIX, MAX_GRAFT, Graft

_BUNDLES = b".cvmfsbundles"
"""Describes bundles, sets of files that clients may fetch together; an experiment of upstream's."""


class Merge:
    """Applies one change to a draft.

    :param draft: the tree
    :param change: where the source goes, and how
    :param source: the opened source
    :param label: names the source in messages
    :param checksum: read the content of every file, also where its attributes are as published
    """

    def __init__(self, draft: Draft, change: Content, source: Source, label: str, *, checksum: bool = False) -> None:
        self._draft = draft
        self._source = source
        self._tree = draft.tree
        self._report = draft.report
        self._base_dir = change.base_dir
        self._is_mirror = change.mode is Mode.MIRROR
        self._owners = draft.options.owners
        self._owner = self._owners(change.owner) if change.owner else draft.options.owner
        self._change = change
        self._label = label
        self._checksum = checksum or draft.options.checksum
        self._split_groups = 0
        self._published: set[bytes] = set()
        """Directories that were in the tree before, and are still to come."""

    def run(self) -> None:
        """Bring in the whole source.

        :raises SourceError: when the source cannot be read or changes, or has something that cannot be published
        :raises UsageError: when something in the repository is in the way
        """
        refuse_virtual(self._base_dir)
        self._make_base(self._owned(self._source.root()))
        for listing in self._source.listings():
            if listing.path == ROOT and not listing.entries:
                self._refuse_to_empty_base()
            self._put_listing(listing)
        if self._draft.contents is not None:
            self._draft.contents.drain()
        self._source.verify()
        if self._split_groups:
            self._report.warnings.append(
                f"{self._label}: {self._split_groups} files with hard links were changed under some of their names "
                "only; their other names keep what was there before"
            )

    # Directories

    def _make_base(self, root: SourceEntry) -> None:
        """Make the base directory, with its parents, or give it the attributes of the source's root."""
        components = self._base_dir.split(b"/")
        for depth in range(1, len(components)):
            path = b"/".join(components[:depth])
            published = self._tree.entry(path)
            if published is None:
                self._put_directory(path, self._draft.made_up(path, stat.S_IFDIR | 0o755, self._owner), None)
                self._draft.unmarked.add(path)
            elif not published.is_directory:
                raise _not_a_directory(path)
        published = self._tree.entry(self._base_dir)
        if published is not None and not published.is_directory:
            raise _not_a_directory(self._base_dir)
        self._put_directory(self._base_dir, root, published)

    def _put_listing(self, listing: Listing) -> None:
        """Make a directory of the tree what the source's is."""
        path = join(self._base_dir, listing.path) if listing.path else self._base_dir
        published: dict[bytes, DirectoryEntry] = {}
        if path in self._published:
            self._published.remove(path)
            published = self._published_in(path, listing)
        entries = {entry.name: self._owned(entry) for entry in listing.entries}
        if path == ROOT:
            self._prepare_root(listing, entries, published)
        self._take_grafts(path, entries)
        if _BUNDLES in entries:
            self._check_bundles(path, entries[_BUNDLES])
        if self._draft.options.balance is not None and listing.is_whole:
            _keep_balance(entries, published)
        self._mark_nested(path, entries, published, is_removed=MARKER in listing.removed)
        groups = self._groups(path, listing, published)
        if self._is_mirror:
            for name in published if listing.is_whole else listing.removed:
                if name not in entries and name in published:
                    self._draft.remove(join(path, name), published[name])

        links: dict[object, list[SourceEntry]] = {}
        for entry in entries.values():
            if entry.is_directory:
                self._put_directory(join(path, entry.name), entry, published.get(entry.name))
            elif entry.link_group is None:
                self._put_file(path, [entry], published, groups)
            else:
                links.setdefault(entry.link_group, []).append(entry)
        for names in links.values():
            self._put_file(path, names, published, groups)

    def _published_in(self, path: bytes, listing: Listing) -> dict[bytes, DirectoryEntry]:
        """Return what is in a directory of the tree, as far as the listing has a say in it."""
        if listing.is_whole:
            return {entry.name: entry for entry in self._tree.listing(path)}
        names = {MARKER, *listing.removed, *(entry.name for entry in listing.entries)}
        found = ((name, self._tree.entry(join(path, name))) for name in names)
        return {name: entry for name, entry in found if entry is not None}

    def _groups(
        self, path: bytes, listing: Listing, published: Mapping[bytes, DirectoryEntry]
    ) -> dict[int, set[bytes]]:
        """Return the names of each group of hard links in a directory that some of `published` are in."""
        concerned = {entry.hardlink_group for entry in published.values()} - {0}
        if listing.is_whole or not concerned:
            return _link_groups(published.values())
        groups = _link_groups(entry for entry in self._tree.listing(path) if entry.hardlink_group in concerned)
        changed = {entry.name for entry in listing.entries}
        for names in groups.values():
            if names & changed and names - changed - set(listing.removed):
                self._split_groups += 1
        return groups

    def _put_directory(self, path: bytes, entry: SourceEntry, published: DirectoryEntry | None) -> None:
        if published is not None and entry.origin is not None:
            self._draft.remove(path, published)
            published = None
        if published is None:
            self._tree.add(path, self._draft.to_published(entry))
            self._report.added.add(path, entry)
            if entry.origin is not None:
                self._draft.copy(entry.origin, path)
                self._published.add(path)
        elif published.is_directory:
            self._published.add(path)
            if not entry.implied and not self._draft.is_same(published, entry):
                self._tree.touch(path, self._draft.to_published(entry))
                self._report.modify(path, published, entry)
        elif entry.implied and not self._is_mirror:
            raise _not_a_directory(path)
        else:
            self._tree.replace(path, self._draft.to_published(entry))
            self._report.modify(path, published, entry)

    def _prepare_root(
        self, listing: Listing, entries: Mapping[bytes, SourceEntry], published: dict[bytes, DirectoryEntry]
    ) -> None:
        """Do what only concerns the repository's root."""
        if VIRTUAL_DIRECTORY in entries or VIRTUAL_DIRECTORY in listing.removed:
            refuse_virtual(VIRTUAL_DIRECTORY)
        published.pop(VIRTUAL_DIRECTORY, None)  # a mirror leaves it alone
        if DIRTAB in entries or DIRTAB in listing.removed or (self._is_mirror and listing.is_whole):
            self._draft.dirtab_error = None
            self._draft.dirtab = self._read_dirtab(entries.get(DIRTAB))

    def _read_dirtab(self, entry: SourceEntry | None) -> Dirtab:
        """Return the rules that the source has."""
        if entry is None or not entry.is_regular:
            return Dirtab()
        if entry.size > MAX_SIZE:
            raise SourceError(
                f"/{display(DIRTAB)} in {self._label} is too large for a list of rules",
                remedy="Shorten it to a few kilobytes",
            )
        text = self._source.dirtab()
        if text is not None:
            return Dirtab.parse(text)
        if not isinstance(entry.content, FileContent):  # an archive that nobody reads, in a dry run
            self._report.warnings.append(
                f"/{display(DIRTAB)} is a hard link in {self._label}; this dry run has not read it, and so knows "
                "nothing of the nested catalogs that it brings"
            )
            return self._draft.dirtab
        content = entry.content
        return Dirtab.parse(fetch_file(self._draft.options.store, content.hash, content.chunks, content.compression))

    def _owned(self, entry: SourceEntry) -> SourceEntry:
        """Return an entry with the owner that it gets in the repository."""
        uid, gid = self._owners.uids(entry.uid), self._owners.gids(entry.gid)
        return entry if (uid, gid) == (entry.uid, entry.gid) else replace(entry, uid=uid, gid=gid)

    def _mark_nested(
        self,
        path: bytes,
        entries: dict[bytes, SourceEntry],
        published: dict[bytes, DirectoryEntry],
        *,
        is_removed: bool,
    ) -> None:
        """See that a directory is a nested catalog if it should be one, before anything is put into it.

        :param is_removed: whether somebody took the marker away, rather than never having had one
        """
        if MARKER not in entries and (
            (self._change.nested_catalog and path == self._base_dir) or self._draft.dirtab.covers(path)
        ):
            if MARKER in published:
                del published[MARKER]  # a mirror leaves it alone
                if is_removed:
                    self._draft.warn_of_marker(path)
            elif path != ROOT:
                marker = join(path, MARKER)
                entries[MARKER] = self._draft.made_up(marker, stat.S_IFREG | 0o644, self._owner)
        if MARKER in entries and entries[MARKER].is_regular and MARKER not in published and path != ROOT:
            self._tree.create_nested(path)

    def _take_grafts(self, path: bytes, entries: dict[bytes, SourceEntry]) -> None:
        """Give grafted files the content that the files next to them describe, which are not published."""
        options = self._draft.options
        for name in [name for name in entries if name.startswith(GRAFT_PREFIX)]:
            place = join(path, name)
            text = self._graft_text(place, entries.pop(name))
            grafted = entries.get(name.removeprefix(GRAFT_PREFIX))
            if grafted is None or not grafted.is_regular:
                self._report.warnings.append(f"{self._label}: /{display(place)} is left out: there is no such file")
                continue
            graft = Graft.parse(text, place)
            grafted.size = graft.size
            grafted.link_group = None
            grafted.content = graft.content(options.compression, external=options.external, direct_io=options.direct_io)
            self._report.grafts += not options.external

    def _graft_text(self, place: bytes, entry: SourceEntry) -> bytes:
        content = entry.content
        if content is None or isinstance(content, FileContent):
            raise SourceError(
                f"/{display(place)} in {self._label} is not a regular file",
                remedy=f"Names that begin with {GRAFT_PREFIX.decode()} describe grafted files; rename it",
            )
        text = bytearray(min(entry.size, MAX_GRAFT) + 1)
        size = 0
        with contextlib.closing(content.open()) as reader:
            while count := reader.readinto(memoryview(text)[size:]):
                size += count
        if size > MAX_GRAFT:
            raise SourceError(
                f"/{display(place)} in {self._label} has more than {MAX_GRAFT} bytes",
                remedy="See whether it describes a grafted file",
            )
        return bytes(text[:size])

    def _check_bundles(self, path: bytes, entry: SourceEntry) -> None:
        """Refuse what upstream does not take, either: it has bundles described in the root only."""
        problem = None
        if not entry.is_regular:
            problem = "is not a regular file"
        elif path != ROOT:
            problem = "is not in the repository's root directory"
        elif entry.link_group is not None:
            problem = "is a hard link"
        if problem is not None:
            raise SourceError(
                f"/{display(join(path, _BUNDLES))} {problem}",
                remedy=f"{_BUNDLES.decode()} describes bundles of files; rename it, or make it such a description",
            )

    def _refuse_to_empty_base(self) -> None:
        """Keep an empty source, most likely the wrong one, from removing what is published."""
        if not self._is_mirror or self._change.allow_empty:
            return
        if any(entry.name not in (MARKER, AUTO_MARKER) for entry in self._tree.listing(self._base_dir)):
            raise SourceError(
                f"{self._label} is empty; mirroring it would empty /{display(self._base_dir)}",
                remedy="See whether it is the right source. If so, use allow_empty",
            )

    # Files

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
        :param groups: the names of the hard links among that
        """
        draft = self._draft
        entry = links[0]
        old = [published.get(link.name) for link in links]
        is_same = (
            old[0] is not None
            and all(item is not None and draft.is_same(item, entry) for item in old)
            and groups.get(old[0].hardlink_group, {entry.name}) == {link.name for link in links}
        )
        contents = draft.contents
        if is_same and isinstance(entry.content, FileContent):
            if old[0] is not None and entry.content == content_of(old[0]):
                return
        elif is_same and (not entry.is_regular or contents is None or not self._checksum):
            draft.count_done(links)
            return
        if entry.is_regular and not is_same:
            draft.check_size(join(directory, entry.name), entry.size)
        for link, item in zip(links, old, strict=True):
            if item is not None and item.is_directory:
                self._refuse_to_empty(join(directory, link.name))

        def store(content: FileContent | None) -> None:
            if not (is_same and old[0] is not None and content == content_of(old[0])):
                self._store_file(directory, links, old, draft.to_published(entry, content))

        if not entry.is_regular:
            store(None)
        elif isinstance(entry.content, FileContent):
            store(entry.content)
        elif contents is None or entry.content is None:
            draft.count_done(links)
            store(UNREAD)
        else:
            draft.count_done(links[1:])
            for item in old:
                if item is not None and item.is_regular and not item.is_external:
                    draft.options.note_published(content_of(item))
            contents.submit(entry.content, store, entry.name)

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
                self._report.added.add(path, entry)
                continue
            self._report.modify(path, item, entry)
            if item.is_directory:
                self._draft.report_removed_content(path)
            if len(links) > 1:
                self._tree.remove(path)
        if len(links) == 1 and old[0] is not None:
            self._tree.replace(paths[0], entry)
        else:
            self._tree.add(paths[0], entry)
        for path in paths[1:]:
            self._tree.link(paths[0], path)

    def _refuse_to_empty(self, path: bytes) -> None:
        """Keep a file from replacing a directory with something in it, unless the source is mirrored."""
        if not self._is_mirror and any(self._tree.listing(path)):
            raise SourceError(
                f"/{display(path)} is a directory with something in it, but a file in {self._label}",
                remedy="Delete the directory in the same change set, before the content, or use mode mirror",
            )


class PublishedContents:
    """Takes the content of an archive's files, but for those whose attributes are as published.

    :param base_dir: where the archive goes
    """

    def __init__(self, draft: Draft, contents: Contents, base_dir: bytes) -> None:
        self._draft = draft
        self._base_dir = base_dir
        self._owners = draft.options.owners
        base = draft.tree.entry(base_dir)
        self._is_wanted_whole = base is None or not base.is_directory or draft.options.checksum
        self.submit = contents.submit
        self.wait = contents.wait
        self.drain = contents.drain

    def published(self, path: bytes, entry: SourceEntry) -> FileContent | None:
        """Return the published content of a file whose attributes are as published."""
        self._draft.options.limits.check_file(join(self._base_dir, path), entry.size)
        if self._is_wanted_whole:
            return None
        published = self._draft.tree.entry(join(self._base_dir, path))
        owned = self._owners(Owner(entry.uid, entry.gid))
        if published is None or not self._draft.is_same(published, replace(entry, uid=owned.uid, gid=owned.gid)):
            return None
        self._draft.count_done([entry])
        return content_of(published)


def _keep_balance(entries: Mapping[bytes, SourceEntry], published: dict[bytes, DirectoryEntry]) -> None:
    """Let a mirror leave alone what keeps catalogs small."""
    if AUTO_MARKER in published and AUTO_MARKER not in entries:
        del published[AUTO_MARKER]
        if MARKER not in entries:
            published.pop(MARKER, None)


def _link_groups(entries: Iterable[DirectoryEntry]) -> dict[int, set[bytes]]:
    """Return the names of each group of hard links in a directory."""
    groups: dict[int, set[bytes]] = {}
    for entry in entries:
        if entry.hardlink_group:
            groups.setdefault(entry.hardlink_group, set()).add(entry.name)
    return groups


def _not_a_directory(path: bytes) -> UsageError:
    return UsageError(
        f"/{display(path)} is not a directory in the repository, and nothing can be put below it",
        remedy="Publish elsewhere, or delete it in the same change set, before the content",
    )
