# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository in a temporary directory, to which changes are applied, and what it should look like afterwards."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from catalog.judge import Judgement, Row, judge, read_object

from cvmfs_publisher.catalog import DirectoryEntry, WritableCatalogTree
from cvmfs_publisher.changes.change_set import Change, ChangeSet, Content, Deletion, Mode, Owner
from cvmfs_publisher.content import Chunking, ContentHash, ContentPipeline, HashSuffix, put_object
from cvmfs_publisher.operations.apply import ApplyOptions, ChangeReport, ContentDone, apply_changes
from cvmfs_publisher.storage import LocalStore, Version

OWNER = Owner(5001, 5002)
TIMESTAMP = 1_700_000_000
CHUNKING = Chunking(64 << 10, 128 << 10, 256 << 10)


@dataclass(frozen=True)
class Seen:
    """What a client sees of a path; directories have no size, and only regular files have content."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    target: bytes = b""
    content: bytes | None = None
    names: frozenset[bytes] = frozenset()
    """Of hard links: all names in the directory."""


class MeddlingStore(LocalStore):
    """A store that lets something happen, once, when the first object is to be stored."""

    meddle: Callable[[], object] | None = None

    def put(self, key: str, *args: Any, **kwargs: Any) -> Version:
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle()
        return super().put(key, *args, **kwargs)


class Repository:
    """Applies changes, commits, and reads what came of it with nothing of the publisher's own code."""

    def __init__(self, base: Path) -> None:
        self.storage = base / "storage"
        self.scratch = base / "scratch"
        self.scratch.mkdir(parents=True)
        self.store = MeddlingStore(self.storage)
        self.root: ContentHash | None = None
        self.revision = 0
        self.options = ApplyOptions(owner=OWNER, timestamp=TIMESTAMP, scratch_dir=self.scratch, store=self.store)

    def publish(self, *changes: Change, stdin: bytes = b"", **options: object) -> ChangeReport:
        """Apply changes and commit them."""
        with self.tree() as tree, self._pipeline() as pipeline:
            report = apply_changes(tree, pipeline, ChangeSet(changes), self._options(stdin, options))
            self.commit(tree)
        assert list(self.scratch.iterdir()) == [], "scratch files stay behind"
        return report

    def commit(self, tree: WritableCatalogTree) -> None:
        """Make a tree the next revision."""
        self.revision += 1
        committed = tree.commit(
            lambda data: put_object(self.store, data, HashSuffix.CATALOG), self.revision, TIMESTAMP + self.revision
        )
        self.root = committed.root_hash

    def preview(self, *changes: Change, stdin: bytes = b"", **options: object) -> ChangeReport:
        """Make a dry run, and see that it writes nothing."""
        before = self.objects()
        with self.tree() as tree:
            report = apply_changes(tree, None, ChangeSet(changes), self._options(stdin, options))
        assert self.objects() == before
        return report

    def judgement(self) -> Judgement:
        """Read all catalogs, and assert that they are as they have to be."""
        assert self.root is not None
        return judge(self.storage, self.root.hex)

    def seen(self, base: bytes = b"") -> dict[bytes, Seen]:
        """Return what there is at and below a path, by path relative to it."""
        lead = b"/" + base if base else b""
        rows = self.judgement().rows
        found = {
            path.removeprefix(lead + b"/") if path != lead else b"": row
            for path, row in rows.items()
            if path == lead or path.startswith(lead + b"/")
        }
        groups: dict[tuple[object, int], set[bytes]] = {}
        for row in found.values():
            groups.setdefault((row.parent, row.group), set()).add(row.name)
        return {
            path: self._seen(row, groups[row.parent, row.group] if row.group else set()) for path, row in found.items()
        }

    def objects(self) -> set[str]:
        """Return the keys of everything in the storage."""
        return {info.key for info in self.store.list("")}

    def _seen(self, row: Row, names: set[bytes]) -> Seen:
        content = None
        if stat.S_ISREG(row.mode):
            if row.chunks:
                content = b"".join(read_object(self.storage, digest.hex(), "P") for _, _, digest in row.chunks)
            else:
                assert row.hash is not None
                content = read_object(self.storage, row.hash.hex())
            assert len(content) == row.size
        mtime_ns = row.mtime * 10**9 + (row.mtime_ns or 0)
        return Seen(row.mode, row.uid, row.gid, mtime_ns, row.symlink, content, frozenset(names))

    def tree(self) -> WritableCatalogTree:
        """Return the tree of the next revision."""
        tree = WritableCatalogTree(self.store, self.root, self.scratch)
        if self.root is None:
            tree.add(b"", DirectoryEntry(name=b"", mode=0o40755, size=4096, mtime=TIMESTAMP))
        return tree

    def _pipeline(self) -> ContentPipeline[ContentDone]:
        workers = 1 if self.store.meddle else 2  # one worker takes files in their order
        return ContentPipeline(self.store, chunking=CHUNKING, workers=workers)

    def _options(self, stdin: bytes, changed: dict[str, object]) -> ApplyOptions:
        return replace(self.options, **{"standard_input": io.BytesIO(stdin), **changed})  # type: ignore[arg-type]


def mirror(source: Path | str, base: str = "sw", **options: object) -> Content:
    return Content(str(source), base.encode(), Mode.MIRROR, **options)  # type: ignore[arg-type]


def merge(source: Path | str, base: str = "sw", **options: object) -> Content:
    return Content(str(source), base.encode(), Mode.MERGE, **options)  # type: ignore[arg-type]


def delete(path: str) -> Deletion:
    return Deletion(path.encode())


def on_disk(directory: Path) -> dict[bytes, Seen]:
    """Return what there is at and below a directory, by path relative to it."""
    top = os.fsencode(directory)
    found = {b"": _look(top)}
    for location, subdirectories, files in os.walk(top):
        statuses = {name: os.lstat(os.path.join(location, name)) for name in files + subdirectories}
        for name, status in statuses.items():
            seen = _look(os.path.join(location, name))
            names = {
                other
                for other, its in statuses.items()
                if its.st_ino == status.st_ino and not stat.S_ISDIR(its.st_mode)
            }
            if len(names) > 1:
                seen = replace(seen, names=frozenset(names))
            found[os.path.relpath(os.path.join(location, name), top)] = seen
    return found


def _look(path: bytes) -> Seen:
    status = os.lstat(path)
    target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else b""
    content = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(status.st_mode) else None
    return Seen(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, target, content)


def set_times(directory: Path, start: int = 1_600_000_000) -> None:
    """Give everything at and below a directory a modification time of its own."""
    paths = sorted(directory.rglob("*"), reverse=True)
    for number, path in enumerate([*paths, directory]):
        nanoseconds = (start + number) * 10**9 + 123_456_000 + number
        os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def make(directory: Path, tree: dict[str, str | bytes | None]) -> Path:
    """Make files, directories (None), and symlinks (``->target``) below a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if what is None:
            path.mkdir(exist_ok=True)
        elif isinstance(what, str) and what.startswith("->"):
            path.symlink_to(what[2:])
        else:
            path.write_bytes(what.encode() if isinstance(what, str) else what)
    set_times(directory)
    return directory
