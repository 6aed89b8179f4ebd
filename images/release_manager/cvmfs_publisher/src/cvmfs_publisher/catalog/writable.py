# SPDX-License-Identifier: GPL-3.0-or-later
"""A new revision's directory tree in the making.

Only catalogs that something changes in are rewritten, and only those and what has to be looked at are
fetched. The rules that keep nested catalogs together are CernVM-FS's ``WritableCatalogManager``.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .. import paths
from ..content import ContentHash, mapped
from ..errors import PublisherError, SourceError, UsageError
from .catalog import Catalog, NestedReference, WritableCatalog, as_nested_root, corrupt
from .entry import MARKER, DirectoryEntry, Flag, pack_xattrs
from .statistics import Counters, Statistics
from .tree import CatalogTree, Node, fetch_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ..storage import Bytes, ObjectStore

_TRANSFERS = 8


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit wrote.

    :param root_hash: the root catalog's object
    :param root_size: bytes of the root catalog's database, uncompressed
    :param catalogs: the objects of all rewritten catalogs; the root's is the last
    :param statistics: the root catalog's counters
    """

    root_hash: ContentHash
    root_size: int
    catalogs: tuple[ContentHash, ...]
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class _Upload:
    """A finished catalog on its way into the store; `size` in bytes, uncompressed."""

    node: Node
    statistics: Statistics
    size: int
    stored: Future[tuple[ContentHash, int]]


class WritableCatalogTree(CatalogTree):
    """The directory tree of the next revision.

    Changes are kept in the scratch directory until `commit`. After an error the tree must be thrown away.

    :param store: the repository, for the catalogs of the base revision
    :param root: the base revision's root catalog; None for a new repository, whose root directory `add` makes
    :param scratch_dir: room for the touched catalogs, uncompressed
    """

    def __init__(self, store: ObjectStore, root: ContentHash | None, scratch_dir: str | Path) -> None:
        super().__init__(store, root, scratch_dir)
        # The directory in which an entry was added last, known to be one
        self._directory: bytes | None = None
        self._previous: ContentHash | None = None
        if root is None:
            self._create(self._root)

    # Changes

    def add(self, path: bytes, entry: DirectoryEntry) -> None:
        """Add `path`, which must not exist, in a directory, which must.

        The entry's name, link count, hard link group and place among nested catalogs are not looked at: the
        tree knows them. A regular file `.cvmfscatalog` turns its directory into a nested catalog.

        :raises UsageError: when there is something at `path`, or its parent is no directory
        :raises SourceError: when no catalog can hold the entry, or it would not pass CernVM-FS's own check
        """
        entry = self._clean(path, entry)
        if path:
            self._require_directory(path)
        if not self._insert(path, entry):
            raise UsageError(f"/{paths.display(path)} exists already", remedy="Replace or remove it")
        if entry.name == MARKER:
            self.create_nested(paths.parent(path))

    def replace(self, path: bytes, entry: DirectoryEntry) -> None:
        """Put `entry` where there is something else, or nothing.

        A directory that stays one keeps its content. A file that was a hard link leaves its group.

        :raises UsageError: when the parent is no directory
        :raises SourceError: as for `add`
        """
        old = self.entry(path)
        if old is not None and old.is_directory and entry.is_directory:
            self.touch(path, entry)
        elif old is not None and paths.name(path) == MARKER and old.is_regular and entry.is_regular:
            entry = self._clean(path, entry)  # and its directory stays the root of a nested catalog
            self._delete(path, old)
            self._insert(path, entry)
        else:
            entry = self._clean(path, entry)
            if old is not None:
                self.remove(path)
            self.add(path, entry)

    def touch(self, path: bytes, entry: DirectoryEntry) -> None:
        """Give the directory `path` the metadata of `entry`.

        :raises UsageError: when `path` is no directory
        :raises SourceError: as for `add`
        """
        old = self.entry(path)
        if old is None or not old.is_directory or not entry.is_directory:
            raise UsageError(f"/{paths.display(path)} is no directory")
        entry = self._clean(path, entry)
        host = self._host(paths.parent(path))
        self._change(host).touch(path, entry)
        if old.is_nested_mountpoint:
            self._change(self._host(path)).touch(path, entry)

    def remove(self, path: bytes) -> None:
        """Remove `path`, with everything below it.

        Nested catalogs below are dropped as they are; of each outermost one the counters are read. When its
        `.cvmfscatalog` file goes, a nested catalog is merged into its parent.

        :raises UsageError: when there is nothing at `path`, or it is the root
        """
        old = self.entry(path)
        if old is None or not path:
            raise UsageError(
                f"/{paths.display(path)} cannot be removed: "
                + ("there is no such entry" if path else "it is the repository's root")
            )
        if old.is_directory:
            self._remove_content(path)
        self._delete(path, old)
        directory = paths.parent(path)
        if paths.name(path) == MARKER and directory and self._host(directory).path == directory:
            self.remove_nested(directory)

    def link(self, existing: bytes, path: bytes) -> None:
        """Make `path`, which must not exist, a hard link to the file `existing` in the same directory.

        :raises UsageError: when they are in different directories, `existing` is no file, or `path` exists
        """
        old = self.entry(existing)
        if old is None or old.is_directory:
            raise UsageError(f"There is no file /{paths.display(existing)} to link to")
        if paths.parent(existing) != paths.parent(path):
            raise UsageError(
                f"/{paths.display(path)} cannot be a hard link to /{paths.display(existing)}: "
                "CernVM-FS has hard links within one directory only",
                remedy="Publish a copy; equal content is stored once",
            )
        self._clean(path, replace(old, hardlink_group=0, linkcount=1))
        if MARKER in (paths.name(path), paths.name(existing)):
            raise SourceError(
                f"/{paths.display(paths.join(paths.parent(path), MARKER))} is a hard link",
                remedy="Make it a file of its own; nested catalogs are marked by an empty regular file",
            )
        if self.entry(path) is not None:
            raise UsageError(f"/{paths.display(path)} exists already", remedy="Remove it first")
        self._change(self._host(paths.parent(path))).join_group(existing, path)

    def clone(self, source: bytes, target: bytes) -> int:
        """Make `target`, which must not exist, a copy of the directory `source`; say how many entries it has.

        Nested catalogs stay nested. As in CernVM-FS's own copies, each name of a file with several becomes a file of
        its own.

        :raises UsageError: when there is another revision below `source`, or as for `add`
        """
        count = 0
        for path, entry in self.walk(source):
            if entry.is_bind_mountpoint:
                raise UsageError(
                    f"/{paths.display(path)} shows another revision, and cannot be copied", remedy="Copy something else"
                )
            copy = target + path[len(source) :]
            self.add(copy, entry)
            if entry.is_nested_mountpoint:
                self.create_nested(copy)
            count += 1
        return count

    def create_nested(self, path: bytes) -> None:
        """Move the content of the directory `path` into a nested catalog, as adding `.cvmfscatalog` does."""
        entry = self.entry(path)
        if entry is None or not entry.is_directory or not path:
            raise UsageError(f"/{paths.display(path)} cannot become a nested catalog")
        outer = self._host(path)
        if outer.path == path:
            return
        moved = [nested for nested in outer.references if paths.is_below(nested, path)]
        subtree = Counters()
        for nested in moved:
            subtree += self._accounted(self._child(outer, nested))

        inner = Node(path, outer, None)
        inner_catalog = self._create(inner)
        inner_catalog.insert(path, as_nested_root(entry))
        catalog = self._change(outer)
        inner_catalog.insert_rows(catalog.rows_below(path))
        inner_catalog.insert_chunk_rows(catalog.chunk_rows_below(path))
        inner.subtree = subtree
        inner.is_changed = True
        self._move_references(moved, outer, inner)

        catalog = self._change(outer)
        catalog.delete_below(path)
        catalog.set_flag(path, Flag.NESTED_MOUNTPOINT, True)
        outer.subtree = _known(outer.subtree) - subtree
        outer.references[path] = None
        outer.children[path] = inner
        self._forget_places()

    def remove_nested(self, path: bytes) -> None:
        """Merge the nested catalog of `path` into its parent, as removing `.cvmfscatalog` does."""
        inner = self._host(path)
        outer = inner.parent
        if inner.path != path or outer is None:
            raise UsageError(f"/{paths.display(path)} is no nested catalog")
        catalog = self._change(inner)
        outer_catalog = self._change(outer)
        outer_catalog.insert_rows(outer_catalog.shift_groups(catalog.rows_below(path)))
        outer_catalog.insert_chunk_rows(catalog.chunk_rows_below(path))
        outer_catalog.set_flag(path, Flag.NESTED_MOUNTPOINT, False)
        self._move_references(list(inner.references), inner, outer)
        outer.subtree = _known(outer.subtree) - _known(inner.accounted) + _known(inner.subtree)
        self._drop(inner)

    def rewrite(self, change: Callable[[WritableCatalog], bool], *, recount: bool = False) -> int:
        """Offer all catalogs to `change`, and return how many there are.

        :param change: changes a catalog's rows, but neither adds nor removes any, and says whether it has
        :param recount: make the counters of changed catalogs anew instead of changing those that they have
        """
        total = 0
        level = [self._root]
        with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="catalog") as pool:
            while level:
                below: list[Node] = []
                for node, data in self._read_ahead(pool, level):
                    catalog = self._load(node, data)
                    total += 1
                    if not isinstance(catalog, WritableCatalog):
                        raise TypeError("a writable tree has writable catalogs only")
                    outer = node.parent
                    if recount and outer is not None and outer.is_changed:
                        outer.subtree = _known(outer.subtree) + _known(node.accounted)
                    if change(catalog):
                        node.is_changed = True
                        if recount:
                            node.subtree = Counters()  # to which those below are added
                    below += [self._child(node, path) for path in sorted(node.references)]
                level = below
        return total

    def _read_ahead(self, pool: ThreadPoolExecutor, nodes: list[Node]) -> Iterator[tuple[Node, bytes | None]]:
        """Yield nodes with their databases, several of which are fetched at a time; None for those that are here."""
        pending: deque[tuple[Node, Future[bytes] | None]] = deque()
        for node in nodes:
            reference = node.reference if node.catalog is None else None
            pending.append((node, pool.submit(fetch_catalog, self._store, reference) if reference else None))
            if len(pending) == _TRANSFERS:
                first, fetched = pending.popleft()
                yield first, fetched.result() if fetched else None
        for node, fetched in pending:
            yield node, fetched.result() if fetched else None

    def changed_catalogs(self) -> list[bytes]:
        """Return the directories of the catalogs that a commit would write, nested ones before those above them."""
        return [node.path for level in reversed(self._changed_levels()) for node in level]

    def bind(self, path: bytes, entry: DirectoryEntry, root: NestedReference) -> None:
        """Add `path`, which must not exist, as a directory that shows the root of another revision.

        :param entry: the other revision's root directory
        :param root: its root catalog; the path in it does not count
        :raises UsageError: as for `add`
        """
        self._require_directory(path)
        entry = replace(entry, name=paths.name(path), xattrs={}, is_nested_root=False, is_bind_mountpoint=True)
        if not self._insert(path, entry):
            raise UsageError(f"/{paths.display(path)} exists already", remedy="Remove it first")
        self._change(self._host(paths.parent(path))).set_bind_mountpoint(replace(root, path=path))

    def set_root_property(self, key: str, value: str | None) -> None:
        """Set a property of the root catalog, such as ``TTL``; None removes it."""
        self._change(self._root).set_property(key, value)

    # Commit

    def commit(
        self,
        put: Callable[[Bytes], tuple[ContentHash, int]],
        revision: int,
        timestamp: int,
        previous: ContentHash | None = None,
    ) -> CommitResult:
        """Write all changed catalogs, nested ones before those that refer to them; the root always.

        :param put: uploads a database; returns the object and a size, which is not used. Called in threads.
        :param revision: the repository's new revision. Nested catalogs count their own.
        :param timestamp: seconds since 1970
        :param previous: the root catalog of the revision before; by default the one that the tree began with
        :raises CorruptObject: when the catalogs do not fit together
        """
        if self.entry(b"") is None:
            raise UsageError("A new repository needs a root directory")
        self._previous = previous
        self._change(self._root)
        written: list[tuple[NestedReference, Statistics]] = []
        with ThreadPoolExecutor(_TRANSFERS, thread_name_prefix="catalog") as pool:
            for level in reversed(self._changed_levels()):
                pending: deque[_Upload] = deque()
                for node in level:
                    if len(pending) == 2 * _TRANSFERS:  # bounds the room that they take
                        written.append(self._take(pending.popleft()))
                    file, statistics = self._finish(node, revision, timestamp)
                    pending.append(_Upload(node, statistics, file.stat().st_size, pool.submit(_upload, file, put)))
                written += map(self._take, pending)
        root, statistics = written[-1]
        return CommitResult(root.hash, root.size, tuple(reference.hash for reference, _ in written), statistics)

    def _changed_levels(self) -> list[list[Node]]:
        """Return the catalogs to write by their depth. A change in a nested one changes all above it."""
        levels: list[list[Node]] = []

        def visit(node: Node, depth: int) -> bool:
            if len(levels) == depth:
                levels.append([])
            below = [visit(child, depth + 1) for _, child in sorted(node.children.items())]
            if not (node.is_changed or any(below)):
                return False
            levels[depth].append(node)
            return True

        visit(self._root, 0)
        return [level for level in levels if level]

    def _finish(self, node: Node, revision: int, timestamp: int) -> tuple[Path, Statistics]:
        catalog = self._change(node)
        if None in node.references.values():
            raise corrupt(node.path, "a new nested catalog was not written")
        return catalog.finish(
            revision=revision if node.parent is None else catalog.revision + 1,
            timestamp=timestamp,
            previous=self._previous_of(node),
            subtree=_known(node.subtree),
        )

    def _previous_of(self, node: Node) -> ContentHash | None:
        if node.parent is None and self._previous is not None:
            return self._previous
        return node.reference.hash if node.reference else None

    def _take(self, upload: _Upload) -> tuple[NestedReference, Statistics]:
        """Wait for a catalog's upload, and tell its parent."""
        node, total = upload.node, upload.statistics.total
        content_hash, _ = upload.stored.result()
        node.reference = reference = NestedReference(node.path, content_hash, upload.size)
        outer = node.parent
        if outer is not None:
            self._change(outer).set_reference(reference)
            outer.references[node.path] = reference
            outer.subtree = _known(outer.subtree) + total - _known(node.accounted)
        node.accounted = total
        node.is_changed = False
        return reference, upload.statistics

    # Internals

    def _clean(self, path: bytes, entry: DirectoryEntry) -> DirectoryEntry:
        """Return the entry with what the tree decides, having refused what must not be in a repository."""
        name = paths.name(path)
        linkcount = 2 if entry.is_directory else 1
        if (
            entry.name != name
            or entry.linkcount != linkcount
            or entry.hardlink_group
            or entry.is_nested_mountpoint
            or entry.is_nested_root
        ):
            entry = replace(
                entry,
                name=name,
                linkcount=linkcount,
                hardlink_group=0,
                is_nested_mountpoint=False,
                is_nested_root=False,
            )
        problem = entry.problem()
        if path and not name:
            problem = "it has an empty name"
        if path.startswith(b"/"):
            raise UsageError(f"{paths.display(path)!r} is not relative to the repository's root")
        if entry.xattrs:
            try:
                pack_xattrs(entry.xattrs)
            except SourceError as error:
                problem = error.message
        if problem is not None:
            raise SourceError(
                f"/{paths.display(path)} cannot be published: {problem}", remedy="Correct or leave it out"
            )
        if entry.name == MARKER:
            if not entry.is_regular:
                raise SourceError(
                    f"/{paths.display(path)} is not a regular file",
                    remedy="Nested catalogs are marked by an empty regular file",
                )
            if path == MARKER:
                raise SourceError(
                    f"{MARKER.decode()} in the repository's root directory: the root always has a catalog",
                    remedy="Remove the file, or publish it into a subdirectory",
                )
        return entry

    def _require_directory(self, path: bytes) -> None:
        directory = paths.parent(path)
        if directory == self._directory:
            return
        entry = self.entry(directory)
        if entry is None or not entry.is_directory:
            raise UsageError(
                f"/{paths.display(path)} cannot be added: /{paths.display(directory)} "
                + ("does not exist" if entry is None else "is not a directory"),
                remedy="Add the directory first" if entry is None else "Remove it, or publish elsewhere",
            )
        if entry.is_bind_mountpoint:
            raise UsageError(
                f"/{paths.display(directory)} shows another revision, and cannot be changed", remedy="Publish elsewhere"
            )
        self._directory = directory

    def _insert(self, path: bytes, entry: DirectoryEntry) -> bool:
        """Add a row for `path`, unless there is one; say whether it was added."""
        directory = paths.parent(path)
        if not self._change(self._host(directory)).insert(path, entry):
            return False
        if path and entry.is_directory:
            self._add_to_linkcount(directory, 1)
        return True

    def _delete(self, path: bytes, entry: DirectoryEntry) -> None:
        """Remove the row of `path` from its catalog."""
        directory = paths.parent(path)
        catalog = self._change(self._host(directory))
        catalog.delete(path)
        if entry.is_directory:
            self._add_to_linkcount(directory, -1)
            self._directory = None
        elif entry.hardlink_group:
            catalog.leave_group(path, entry)

    def _remove_content(self, path: bytes) -> None:
        host = self._host(path)
        if host.path == path:  # a nested catalog goes as a whole
            outer = host.parent
            if outer is None:
                raise UsageError("The repository's root cannot be removed")
            self._change(outer)
            outer.subtree = _known(outer.subtree) - self._accounted(host)
            self._drop(host)
            return
        self._change(host)
        for nested in [nested for nested in host.references if paths.is_below(nested, path)]:
            child = self._child(host, nested)
            host.subtree = _known(host.subtree) - self._accounted(child)
            self._drop(child)
        catalog = self._change(host)
        catalog.remove_bind_mountpoints_below(path)
        catalog.delete_below(path)
        self._forget_places()

    def _add_to_linkcount(self, directory: bytes, delta: int) -> None:
        """Count a subdirectory of `directory`; in its mountpoint as well when it is a nested catalog's root."""
        host = self._host(directory)
        self._change(host).add_to_linkcount(directory, delta)
        if host.path == directory and host.parent is not None:
            self._change(host.parent).add_to_linkcount(directory, delta)

    def _change(self, node: Node) -> WritableCatalog:
        """Return the node's catalog for changes, and note that it has to be written."""
        catalog = self._load(node)
        if not isinstance(catalog, WritableCatalog):
            raise TypeError("a writable tree has writable catalogs only")
        node.is_changed = True
        return catalog

    def _accounted(self, node: Node) -> Counters:
        """Return what a catalog and everything below it count in the catalogs above it."""
        if node.accounted is None:
            self._load(node)
        return _known(node.accounted)

    def _create(self, node: Node) -> WritableCatalog:
        """Give a new node an empty catalog."""
        catalog = WritableCatalog.create(self._new_file(), node.path)
        node.catalog = catalog
        node.subtree = Counters()
        node.accounted = Counters()
        node.is_changed = True
        self._mark_used(node)
        return catalog

    def _drop(self, node: Node) -> None:
        """Forget a nested catalog, and everything below it."""
        outer = node.parent
        if outer is None:
            raise corrupt(node.path, "the root catalog cannot go")
        self._change(outer).remove_reference(node.path)
        del outer.references[node.path]
        outer.children.pop(node.path, None)
        for gone in _with_descendants(node):
            self._open.pop(gone, None)
            if gone.catalog is not None:
                gone.catalog.discard()
                gone.catalog = None
        self._forget_places()

    def _move_references(self, moved: list[bytes], source: Node, target: Node) -> None:
        for path in moved:
            reference = source.references.pop(path)
            target.references[path] = reference
            child = source.children.pop(path, None)
            if child is not None:
                child.parent = target
                target.children[path] = child
            self._change(source).remove_reference(path)
            if reference is not None:
                self._change(target).set_reference(reference)

    def _forget_places(self) -> None:
        self._last = (b"", self._root)
        self._directory = None

    def _open_catalog(self, file: Path) -> Catalog:
        return WritableCatalog(file)


def _upload(file: Path, put: Callable[[Bytes], tuple[ContentHash, int]]) -> tuple[ContentHash, int]:
    """Upload a finished catalog, and remove its file."""
    with file.open("rb") as stream:
        file.unlink()
        return put(mapped(stream))


def _known(counters: Counters | None) -> Counters:
    if counters is None:
        raise PublisherError("A catalog's counters were used before it was loaded")
    return counters


def _with_descendants(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children.values():
        yield from _with_descendants(child)
