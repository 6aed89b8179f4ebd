# SPDX-License-Identifier: GPL-3.0-or-later
"""What a directory tree is, taken from a file system or from catalogs, and how two of them differ."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cvmfs_publisher.catalog import CatalogTree, DirectoryEntry
from cvmfs_publisher.content import ContentHash, fetch_object
from cvmfs_publisher.paths import display, join, parent
from cvmfs_publisher.storage import ObjectStore

_BLOCK = 1 << 20
_MOST_REPORTED = 20


@dataclass(frozen=True, slots=True)
class Node:
    """Everything about one path that a publish is to keep.

    :param mode: as ``st_mode``
    :param size: of files and symlinks; that of directories means nothing, and is 0 here
    :param mtime: nanoseconds since 1970
    :param nlink: of directories, 2 and the number of subdirectories; else the number of names in the same directory
    :param links: those names, in order; empty for directories
    :param target: of a symlink
    :param content: SHA-256 of a regular file
    """

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    nlink: int
    links: tuple[bytes, ...] = ()
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    content: str = ""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


Tree = dict[bytes, Node]
"""Nodes by their path; that of the root is empty."""


def read_directory(root: Path) -> Tree:
    """Read a directory tree as an ordinary program sees it. `nlink` is counted rather than believed."""
    return _read(root, lambda _, counted: counted)


def read_mount(root: Path) -> Tree:
    """Read a mounted repository; `nlink` is what the client says."""
    return _read(root, lambda status, _: status.st_nlink)


def _read(root: Path, nlink: Callable[[os.stat_result, int], int]) -> Tree:
    tree: Tree = {}
    base = os.fsencode(root)
    pending = [b""]
    tree[b""] = _node(base, os.lstat(base), 1, ())
    while pending:
        directory = pending.pop()
        names = sorted(os.listdir(join(base, directory) if directory else base))
        statuses = {name: os.lstat(base + b"/" + join(directory, name)) for name in names}
        inodes: dict[int, list[bytes]] = {}
        for name, status in statuses.items():
            if not stat.S_ISDIR(status.st_mode):
                inodes.setdefault(status.st_ino, []).append(name)
        for name, status in statuses.items():
            path = join(directory, name)
            links = tuple(inodes.get(status.st_ino, ())) if not stat.S_ISDIR(status.st_mode) else ()
            tree[path] = _node(base + b"/" + path, status, nlink(status, len(links)), links)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
        own = os.lstat(join(base, directory) if directory else base)
        subdirectories = sum(stat.S_ISDIR(status.st_mode) for status in statuses.values())
        tree[directory] = replace(tree[directory], nlink=nlink(own, 2 + subdirectories))
    return tree


def _node(location: bytes, status: os.stat_result, nlink: int, links: tuple[bytes, ...]) -> Node:
    return Node(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if stat.S_ISDIR(status.st_mode) else status.st_size,
        mtime=status.st_mtime_ns,
        nlink=nlink,
        links=links,
        target=os.readlink(location) if stat.S_ISLNK(status.st_mode) else b"",
        xattrs=tuple(
            (os.fsencode(name), os.getxattr(location, name, follow_symlinks=False))
            for name in sorted(os.listxattr(location, follow_symlinks=False))
        ),
        content=_file_digest(location) if stat.S_ISREG(status.st_mode) else "",
    )


def _file_digest(location: bytes) -> str:
    digest = hashlib.sha256()
    with open(location, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_catalogs(store: ObjectStore, root: ContentHash, scratch: Path) -> Tree:
    """Read a revision through the publisher's catalogs and objects, without CernVM-FS's help."""
    tree: Tree = {}
    groups: dict[tuple[bytes, int], list[bytes]] = {}
    with CatalogTree(store, root, scratch) as catalogs:
        entries = dict(catalogs.walk())
    for path, entry in entries.items():
        if not entry.is_directory:
            groups.setdefault((parent(path), entry.hardlink_group or -id(entry)), []).append(entry.name)
    for path, entry in entries.items():
        links = () if entry.is_directory else groups[parent(path), entry.hardlink_group or -id(entry)]
        tree[path] = Node(
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            size=0 if entry.is_directory else entry.size,
            mtime=entry.mtime * 10**9 + (entry.mtime_ns or 0),
            nlink=entry.linkcount,
            links=tuple(sorted(links)),
            target=entry.symlink,
            xattrs=tuple(sorted(entry.xattrs.items())),
            content=_entry_digest(store, entry) if entry.is_regular else "",
        )
    return tree


def _entry_digest(store: ObjectStore, entry: DirectoryEntry) -> str:
    digest = hashlib.sha256()
    if entry.chunks:
        for chunk in entry.chunks:
            digest.update(fetch_object(store, chunk.hash, entry.compression))
    elif entry.hash is not None:
        digest.update(fetch_object(store, entry.hash, entry.compression))
    return digest.hexdigest()


def whole_seconds(tree: Tree) -> Tree:
    """Return the tree as a repository shows it that does not keep nanoseconds."""
    return {path: replace(node, mtime=node.mtime // 10**9 * 10**9) for path, node in tree.items()}


def without_xattrs(tree: Tree) -> Tree:
    """Return the tree as a repository shows it that does not keep extended attributes."""
    return {path: replace(node, xattrs=()) for path, node in tree.items()}


def below(tree: Tree, directory: bytes) -> Tree:
    """Return the part of the tree from `directory` on, which becomes its root."""
    prefix = directory + b"/"
    part = {path.removeprefix(prefix): node for path, node in tree.items() if path.startswith(prefix)}
    return {b"": tree[directory], **part}


def differences(expected: Mapping[bytes, Node], actual: Mapping[bytes, Node], ignore: Iterable[str] = ()) -> list[str]:
    """Return sentences about what is different, the first few of them.

    :param ignore: fields of `Node` that may differ
    """
    compared = [field.name for field in fields(Node) if field.name not in set(ignore)]
    found = []
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            found.append(f"/{display(path)} is missing")
        elif path not in expected:
            found.append(f"/{display(path)} should not be there")
        else:
            for name in compared:
                left, right = getattr(expected[path], name), getattr(actual[path], name)
                if left != right:
                    found.append(f"/{display(path)}: {name} is {right!r} instead of {left!r}")
    if len(found) > _MOST_REPORTED:
        found[_MOST_REPORTED:] = [f"and {len(found) - _MOST_REPORTED} more"]
    return found
