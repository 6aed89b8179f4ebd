# SPDX-License-Identifier: GPL-3.0-or-later
"""All catalogs of one revision as one directory tree. Catalogs are fetched when they are asked for something."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections import OrderedDict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .. import paths
from ..content import ContentHash, fetch_object
from ..errors import CorruptObject, ObjectNotFound, PublisherError
from .catalog import Catalog, NestedReference, corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..storage import ObjectStore
    from .entry import DirectoryEntry
    from .statistics import Counters, Statistics

_MAX_OPEN = 24


def fetch_catalog(store: ObjectStore, reference: NestedReference) -> bytes:
    """Return a catalog's database.

    :raises ObjectNotFound, CorruptObject: naming its directory
    """
    try:
        return fetch_object(store, reference.hash)
    except (ObjectNotFound, CorruptObject) as error:
        message = f"The catalog of /{paths.display(reference.path)} cannot be read: {error.message}"
        raise type(error)(message, remedy=error.remedy) from None


class Node:
    """One catalog's place in the tree.

    :ivar path: the directory whose content it holds
    :ivar parent: the catalog that refers to this one; None for the root
    :ivar reference: its object, as the base revision or the last commit has it; None for a new catalog
    :ivar catalog: its file, while that is there
    :ivar children: the nested catalogs that have been visited
    :ivar references: all catalogs nested directly in it, including new ones (None); known once it was loaded
    :ivar subtree: counters of everything below; known once it was loaded
    :ivar accounted: what the parent's `subtree` has of this catalog and everything below it
    :ivar is_changed: whether the file differs from `reference`
    """

    __slots__ = (
        "accounted",
        "catalog",
        "children",
        "is_changed",
        "parent",
        "path",
        "reference",
        "references",
        "subtree",
    )

    def __init__(self, path: bytes, parent: Node | None, reference: NestedReference | None) -> None:
        self.path = path
        self.parent = parent
        self.reference = reference
        self.catalog: Catalog | None = None
        self.children: dict[bytes, Node] = {}
        self.references: dict[bytes, NestedReference | None] = {}
        self.subtree: Counters | None = None
        self.accounted: Counters | None = None
        self.is_changed = False


class CatalogTree:
    """One revision's directory tree, for reading.

    :param store: the repository
    :param root: the root catalog's object
    :param scratch_dir: where fetched catalogs are kept until the tree is closed, in a directory of their own
    """

    def __init__(self, store: ObjectStore, root: ContentHash | None, scratch_dir: str | Path) -> None:
        self._store = store
        try:
            self._scratch = Path(tempfile.mkdtemp(prefix="catalogs-", dir=scratch_dir))
        except OSError as error:
            raise PublisherError(
                f"Cannot make a directory in the scratch directory {scratch_dir}: {error.strerror}",
                remedy="Give it to the publisher's user, with free space",
            ) from error
        self._numbers = itertools.count()
        self._open: OrderedDict[Node, None] = OrderedDict()
        self._root = Node(b"", None, NestedReference(b"", root, 0) if root else None)
        self._last: tuple[bytes, Node] = (b"", self._root)

    def entry(self, path: bytes) -> DirectoryEntry | None:
        """Return what `path` is, or None when there is nothing.

        The root of a nested catalog appears as its mountpoint; both have the same metadata.

        :raises CorruptObject: when a catalog on the way is damaged
        :raises StorageError: when it cannot be fetched
        """
        return self._load(self._host(paths.parent(path))).entry(path)

    def listing(self, path: bytes) -> Iterator[DirectoryEntry]:
        """Return the entries of the directory `path`, ordered by name; nothing when it is no directory."""
        return self._load(self._host(path)).listing(path)

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, DirectoryEntry]]:
        """Yield `path` and everything below it: directories before their content, names in order."""
        start = self.entry(path)
        if start is None:
            return
        yield path, start
        stack = [(path, self.listing(path))] if start.is_directory else []
        while stack:
            directory, entries = stack[-1]
            for entry in entries:
                child = paths.join(directory, entry.name)
                yield child, entry
                if entry.is_directory and not entry.is_bind_mountpoint:
                    stack.append((child, self.listing(child)))
                    break
            else:
                stack.pop()

    def catalogs(self) -> Iterator[tuple[bytes, NestedReference | None]]:
        """Yield the path and reference of every catalog, parents first. A new catalog has no reference."""
        pending = [self._root]
        while pending:
            node = pending.pop()
            self._load(node)
            yield node.path, node.reference
            pending += [self._child(node, path) for path in sorted(node.references, reverse=True)]

    def catalog(self, path: bytes) -> Catalog:
        """Return the catalog that holds the content of the directory `path`, for use until the next call."""
        return self._load(self._host(path))

    def reference(self, path: bytes) -> NestedReference | None:
        """Return the reference to the nested catalog that begins at `path`; None when there is none, or it is new."""
        host = self._host(paths.parent(path))
        self._load(host)
        return host.references.get(path)

    def catalogs_around(self, directories: Iterable[bytes], budget: int) -> Iterator[Catalog]:
        """Yield the catalogs with the content of `directories` and those nested below, each once, nearest first.

        A directory that does not exist stands for its nearest parent that has a catalog. Each catalog may be used until
        the next one is asked for.

        :param budget: bytes of catalogs, uncompressed, after which no more are fetched
        """
        pending = deque((self._host(directory), directory) for directory in sorted(directories))
        seen: set[Node] = set()
        while pending and budget > 0:
            node, directory = pending.popleft()
            if node in seen:
                continue
            seen.add(node)
            catalog = self._load(node)
            budget -= catalog.file.stat().st_size
            yield catalog
            below = sorted(path for path in node.references if paths.is_below(path, directory))
            pending += [(self._child(node, path), path) for path in below]

    def statistics(self) -> Statistics:
        """Return the root catalog's counters, as they were published."""
        return self._load(self._root).statistics()

    def close(self) -> None:
        """Remove the scratch files."""
        for node in self._open:
            if node.catalog is not None:
                node.catalog.discard()
        self._open.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _host(self, directory: bytes) -> Node:
        """Return the catalog that has the entries of `directory`."""
        if self._last[0] == directory:
            return self._last[1]
        node = self._root
        end = -1
        while end < len(directory):
            end = directory.find(b"/", end + 1)
            if end < 0:
                end = len(directory)
            if node.subtree is None:  # its references are not known yet
                self._load(node)
            if directory[:end] in node.references:
                node = self._child(node, directory[:end])
        self._last = directory, node
        return node

    def _child(self, node: Node, path: bytes) -> Node:
        child = node.children.get(path)
        if child is None:
            child = node.children[path] = Node(path, node, node.references[path])
        return child

    def _load(self, node: Node, data: bytes | None = None) -> Catalog:
        """Return the node's catalog, opened.

        :param data: its database, if it has been fetched already
        """
        if node.catalog is None:
            node.catalog = self._fetch(node, data)
            if node.subtree is None:
                statistics = node.catalog.statistics()
                node.subtree = statistics.subtree
                node.accounted = statistics.total
                node.references = {reference.path: reference for reference in node.catalog.nested()}
        self._mark_used(node)
        return node.catalog

    def _fetch(self, node: Node, data: bytes | None = None) -> Catalog:
        """Return the catalog of a node.

        :param data: its database, if it has been fetched already
        """
        if data is None:
            if node.reference is None:
                raise corrupt(node.path, "there is no catalog")
            data = fetch_catalog(self._store, node.reference)
        file = self._new_file()
        try:
            file.write_bytes(data)
        except OSError as error:
            raise PublisherError(
                f"Cannot write a catalog to the scratch directory {self._scratch}: {error.strerror}",
                remedy="Free space there, or use a larger scratch volume; nothing was published",
            ) from error
        catalog = self._open_catalog(file)
        if catalog.path != node.path:
            raise corrupt(node.path, f"its catalog is that of /{paths.display(catalog.path)}")
        return catalog

    def _open_catalog(self, file: Path) -> Catalog:
        return Catalog(file)

    def _new_file(self) -> Path:
        return self._scratch / f"{next(self._numbers)}.catalog"

    def _mark_used(self, node: Node) -> None:
        self._open[node] = None
        self._open.move_to_end(node)
        if len(self._open) > _MAX_OPEN:
            oldest, _ = self._open.popitem(last=False)
            if oldest.catalog is not None:
                self._put_away(oldest, oldest.catalog)

    def _put_away(self, node: Node, catalog: Catalog) -> None:
        if node.is_changed:
            catalog.suspend()
        else:
            # It can be fetched again; a walk over a large repository must not fill the scratch directory
            catalog.discard()
            node.catalog = None
