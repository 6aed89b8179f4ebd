# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a repository's catalogs from plain files, with nothing of the publisher's own code, and judges them.

The rules are those of ``cvmfs_swissknife check``, and the tool itself is asked too where it is installed.
"""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import stat
import struct
import subprocess
import tempfile
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SWISSKNIFE = shutil.which("cvmfs_swissknife")

FLAG_DIR, FLAG_MOUNTPOINT, FLAG_FILE, FLAG_LINK, FLAG_SPECIAL = 1, 2, 4, 8, 16
FLAG_NESTED_ROOT, FLAG_CHUNKED, FLAG_EXTERNAL = 32, 64, 128

COUNTERS = [
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
]
COLUMNS = (
    "md5path_1, md5path_2, parent_1, parent_2, hardlinks, hash, size, mode, mtime, mtimens, flags, name, symlink, "
    "uid, gid, xattr"
)


@dataclass
class Row:
    """One row of a catalog."""

    key: tuple[int, int]
    parent: tuple[int, int]
    group: int
    links: int
    hash: bytes | None
    size: int
    mode: int
    mtime: int
    mtime_ns: int | None
    flags: int
    name: bytes
    symlink: bytes
    uid: int
    gid: int
    xattr: bytes | None
    chunks: tuple[tuple[int, int, bytes], ...] = ()

    @property
    def attributes(self) -> tuple[object, ...]:
        """What both entries of a transition point have in common."""
        return (self.name, self.links, self.size, self.mode, self.mtime, self.mtime_ns, self.uid, self.gid, self.xattr)


@dataclass
class Judgement:
    """The tree that the catalogs show, by path with leading slash; the root's is empty."""

    rows: dict[bytes, Row] = field(default_factory=dict)
    catalogs: dict[bytes, str] = field(default_factory=dict)
    properties: dict[bytes, dict[str, str]] = field(default_factory=dict)


def md5path(path: bytes) -> tuple[int, int]:
    first, second = struct.unpack("<qq", hashlib.md5(path, usedforsecurity=False).digest())
    return first, second


def read_object(storage: Path, hex_digest: str, suffix: str = "") -> bytes:
    """Return an object's content."""
    stored = (storage / "data" / hex_digest[:2] / (hex_digest[2:] + suffix)).read_bytes()
    assert hashlib.sha1(stored, usedforsecurity=False).hexdigest() == hex_digest
    return zlib.decompress(stored)


def judge(storage: Path, root: str) -> Judgement:
    """Read all catalogs below the given root catalog and assert that they are as they have to be."""
    judgement = Judgement()
    _judge_catalog(storage, root, b"", None, judgement)
    return judgement


def _judge_catalog(
    storage: Path, digest: str, path: bytes, mountpoint: Row | None, judgement: Judgement
) -> Counter[str]:
    data = read_object(storage, digest, "C")
    judgement.catalogs[path] = digest
    with tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(data)
        file.flush()
        db = sqlite3.connect(f"file:{file.name}?mode=ro", uri=True)
        db.text_factory = bytes
        try:
            return _judge_database(storage, db, path, mountpoint, judgement)
        finally:
            db.close()


def _judge_database(
    storage: Path, db: sqlite3.Connection, path: bytes, mountpoint: Row | None, judgement: Judgement
) -> Counter[str]:
    assert db.execute("PRAGMA integrity_check").fetchall() == [(b"ok",)]
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
    texts = ("catalog.name", "catalog.symlink", "nested_catalogs.path", "nested_catalogs.sha1", "properties.value")
    for table, column in (text.split(".") for text in texts):
        kinds = db.execute(f"SELECT DISTINCT typeof({column}) FROM {table}").fetchall()  # noqa: S608
        assert kinds in ([], [(b"text",)]), (table, column, kinds)
    properties = {key.decode(): value for key, value in db.execute("SELECT key, value FROM properties")}
    judgement.properties[path] = {key: value.decode("latin-1") for key, value in properties.items()}
    assert properties["schema"] == b"2.5"
    assert properties["schema_revision"] == b"7"
    assert properties.get("root_prefix", b"") == path

    chunks: dict[tuple[int, int], list[tuple[int, int, bytes]]] = defaultdict(list)
    for first, second, offset, size, piece in db.execute("SELECT * FROM chunks ORDER BY offset"):
        chunks[first, second].append((offset, size, piece))
    listing: dict[tuple[int, int], list[Row]] = defaultdict(list)
    by_key: dict[tuple[int, int], Row] = {}
    rowids = [rowid for (rowid,) in db.execute("SELECT rowid FROM catalog ORDER BY rowid")]
    assert rowids == list(range(1, len(rowids) + 1)), "row numbers have gaps"
    if not path:
        first_row = db.execute("SELECT md5path_1, md5path_2 FROM catalog WHERE rowid = 1").fetchone()
        assert first_row == md5path(path), "the first row is not the repository's root, whose inode it gets in clients"
    for values in db.execute(f"SELECT {COLUMNS} FROM catalog"):  # noqa: S608
        first, second, parent_1, parent_2, hardlinks, *rest = values
        row = Row((first, second), (parent_1, parent_2), hardlinks >> 32, hardlinks & 0xFFFFFFFF, *rest)
        row.chunks = tuple(chunks.pop(row.key, ()))
        by_key[row.key] = row
        if row.key != md5path(path):
            listing[row.parent].append(row)
    assert not chunks, "chunks of no file"

    root = by_key[md5path(path)]
    assert root.name == path.rpartition(b"/")[2]
    assert bool(root.flags & FLAG_NESTED_ROOT) == bool(path)
    if mountpoint is not None:
        assert mountpoint.attributes == root.attributes, (mountpoint, root)
    else:
        judgement.rows[b""] = root

    counted: Counter[str] = Counter(dir=1, xattr=int(root.xattr is not None))
    mountpoints: dict[bytes, Row] = {}
    groups: dict[tuple[int, int], set[int]] = defaultdict(set)
    reachable = 1
    pending = [(path, root)]
    while pending:
        directory, entry = pending.pop()
        children = listing.get(entry.key, [])
        reachable += len(children)
        assert entry.links == 2 + sum(stat.S_ISDIR(child.mode) for child in children), directory
        names = [child.name for child in children]
        assert len(set(names)) == len(names)
        assert (b".cvmfscatalog" in names) == (directory == path and path != b""), directory
        members: dict[int, list[Row]] = defaultdict(list)
        for child in children:
            child_path = directory + b"/" + child.name
            assert child.name
            assert b"/" not in child.name
            assert child.key == md5path(child_path)
            assert child_path not in judgement.rows
            judgement.rows[child_path] = child
            _count(child, counted)
            _judge_entry(child, child_path)
            if child.group:
                members[child.group].append(child)
                groups[entry.key].add(child.group)
            if child.flags & FLAG_MOUNTPOINT:
                mountpoints[child_path] = child
                assert not listing.get(child.key), "mountpoint with content"
            elif child.flags & FLAG_DIR:
                pending.append((child_path, child))
        for group in members.values():
            assert all(row.links == len(group) > 1 for row in group)
            assert len({(row.hash, row.size, row.mode, row.mtime, row.chunks, row.xattr) for row in group}) == 1
    assert reachable == len(by_key), "entries that no directory leads to"
    seen: set[int] = set()
    for numbers in groups.values():
        assert not seen & numbers, "a hard link group in two directories"
        seen |= numbers

    references = {
        bytes(name): (text.decode(), size)
        for name, text, size in db.execute("SELECT path, sha1, size FROM nested_catalogs")
    }
    assert references.keys() == mountpoints.keys()
    counted["nested"] = len(references)
    below: Counter[str] = Counter()
    for name, (digest, size) in references.items():
        assert size == len(read_object(storage, digest, "C"))
        below += _judge_catalog(storage, digest, name, mountpoints[name], judgement)
    stored = {key.decode(): value for key, value in db.execute("SELECT counter, value FROM statistics")}
    expected = {
        f"{kind}_{name}": counts[name] for kind, counts in (("self", counted), ("subtree", below)) for name in COUNTERS
    }
    assert stored == expected, path
    return counted + below


def _count(row: Row, counted: Counter[str]) -> None:
    if row.xattr is not None:
        counted["xattr"] += 1
    if stat.S_ISDIR(row.mode):
        counted["dir"] += 1
    elif stat.S_ISLNK(row.mode):
        counted["symlink"] += 1
    elif stat.S_ISREG(row.mode):
        counted["regular"] += 1
        counted["file_size"] += row.size
        if row.flags & FLAG_EXTERNAL:
            counted["external"] += 1
            counted["external_file_size"] += row.size
        if row.flags & FLAG_CHUNKED:
            counted["chunked"] += 1
            counted["chunked_size"] += row.size
            counted["chunks"] += len(row.chunks)
    else:
        counted["special"] += 1


def _judge_entry(row: Row, path: bytes) -> None:
    kind = row.flags & (FLAG_DIR | FLAG_FILE | FLAG_LINK | FLAG_SPECIAL)
    assert not row.flags & FLAG_NESTED_ROOT
    assert bool(row.flags & FLAG_CHUNKED) == bool(row.chunks)
    if stat.S_ISDIR(row.mode):
        assert kind == FLAG_DIR
        assert row.hash is None
        assert row.group == 0
        return
    if stat.S_ISLNK(row.mode):
        assert kind == FLAG_FILE | FLAG_LINK
        assert row.hash is None
        assert row.size == len(row.symlink)
    elif stat.S_ISREG(row.mode):
        assert kind == FLAG_FILE
        assert row.hash or row.chunks
        end = 0
        for offset, size, _ in row.chunks:
            assert offset == end
            end += size
        assert not row.chunks or end == row.size
    else:
        assert kind == FLAG_FILE | FLAG_SPECIAL
        assert row.hash is None
        assert row.symlink == b""
    assert (row.group > 0) == (row.links > 1), path


def swissknife_check(storage: Path, root: str, size: int) -> None:
    """Let CernVM-FS's own check look at the catalogs, if it is installed."""
    if SWISSKNIFE is None:
        return
    manifest = f"C{root}\nB{size}\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS1\nGno\nAno\nNtest.example.org\n"
    (storage / ".cvmfspublished").write_text(manifest)
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [SWISSKNIFE, "check", "-r", str(storage), "-t", scratch], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
