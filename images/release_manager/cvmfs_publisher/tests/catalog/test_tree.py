# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalog trees: what they keep, refuse, fetch and write."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sqlite3
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from faults import FaultyStore

from cvmfs_publisher.catalog import Catalog, CatalogTree, WritableCatalogTree
from cvmfs_publisher.catalog.catalog import WritableCatalog
from cvmfs_publisher.catalog.schema import SCHEMA_REVISION
from cvmfs_publisher.content import ContentHash, HashSuffix
from cvmfs_publisher.errors import CorruptObject, ObjectNotFound, PublisherError, SourceError, UsageError
from cvmfs_publisher.storage import Bytes, LocalStore

from .conftest import Workshop, chunked, directory, regular, symlink
from .judge import judge, md5path, read_object

MARKER = b".cvmfscatalog"


def nested(tree: WritableCatalogTree, path: bytes) -> None:
    """Make a directory with a catalog of its own."""
    tree.add(path, directory())
    tree.add(path + b"/" + MARKER, regular())


def test_an_empty_repository(workshop: Workshop) -> None:
    found = workshop.commit(workshop.change())
    assert list(found.rows) == [b""]
    assert found.properties[b""].keys() == {"schema", "schema_revision", "revision", "last_modified"}
    with workshop.read() as tree:
        root = tree.entry(b"")
        assert root is not None
        assert (root.name, root.linkcount) == (b"", 2)
        assert tree.statistics().own.dir == 1


def test_everything_that_can_be_in_a_catalog(workshop: Workshop) -> None:
    entries = {
        b"dir": directory(uid=2**32 - 1, gid=7, mode=0o042755, mtime=-5),
        b"dir/file": regular(b"hello", mtime_ns=999_999_999, xattrs={b"user.x": b"\0\xff"}),
        b"dir/big": chunked(b"b", (8 << 20, 1)),
        b"dir/link": symlink(b"../\xff\xfe"),
        b"dir/fifo": regular(b"", mode=0o010600, hash=None),
        b"dir/socket": regular(b"", mode=0o140600, hash=None),
        b"dir/null": regular(b"", mode=0o020666, hash=None, size=os.makedev(1, 3)),
        b"dir/" + bytes(set(range(1, 256)) - {ord("/")}): regular(b"all bytes"),
        b"dir/" + b"\n" * 255: regular(b"long"),
        "dir/größe".encode("latin-1"): regular(b"not UTF-8"),
        b"dir/external": regular(b"e", is_external=True, is_direct_io=True),
        b"hidden": directory(is_hidden=True),
    }
    with workshop.change() as tree:
        for path, entry in entries.items():
            tree.add(path, entry)
        workshop.commit(tree)
    with workshop.read() as tree:
        for path, entry in entries.items():
            linkcount = 2 if entry.is_directory else 1
            assert tree.entry(path) == replace(entry, name=path.rpartition(b"/")[2], linkcount=linkcount), path
        assert [path for path, _ in tree.walk(b"dir")][1:] == sorted(
            path for path in entries if path.startswith(b"dir/")
        )
        assert tree.entry(b"dir/missing") is None
        assert tree.entry(b"dir/file/below") is None
        assert list(tree.listing(b"dir/file")) == []


def test_symlinks_are_as_long_as_their_targets(tmp_path: Path) -> None:
    """CernVM-FS's own ingest stores 0 instead."""
    with WritableCatalog.create(tmp_path / "catalog", b"") as catalog:
        catalog.insert(b"link", replace(symlink(b"target"), size=0))
    with Catalog(tmp_path / "catalog") as catalog:
        entry = catalog.entry(b"link")
        assert entry is not None
        assert entry.size == 6


def test_a_marker_splits_a_directory_and_its_removal_merges_it(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for path in (b"a", b"a/b", b"a/b/c"):
            tree.add(path, directory(xattrs={b"user.path": path}))
            tree.add(path + b"/big", chunked(path, (5, 6)))
            tree.add(path + b"/x", regular(path))
            tree.link(path + b"/x", path + b"/y")
        tree.add(b"a/b/c/" + MARKER, regular())
        whole = workshop.commit(tree)
        assert whole.catalogs.keys() == {b"", b"/a/b/c"}
        plain = set(whole.rows)
        tree.add(b"a/" + MARKER, regular())
        split = workshop.commit(tree)
        assert split.catalogs.keys() == {b"", b"/a", b"/a/b/c"}
        assert split.catalogs[b"/a/b/c"] == whole.catalogs[b"/a/b/c"], "moved without being rewritten"
        assert set(split.rows) == plain | {b"/a/.cvmfscatalog"}
        tree.remove(b"a/b/c/" + MARKER)
        tree.remove(b"a/" + MARKER)
        merged = workshop.commit(tree)
        assert merged.catalogs.keys() == {b""}
        assert set(merged.rows) == plain - {b"/a/b/c/.cvmfscatalog"}
        assert len({row.group for row in merged.rows.values() if row.group}) == 3


@pytest.mark.parametrize("reopen", [False, True])
def test_merging_a_catalog_that_has_others_in_it(workshop: Workshop, reopen: bool) -> None:
    tree = workshop.change()
    for path in (b"a", b"a/b", b"a/b/c", b"a/b/d"):
        nested(tree, path)
        tree.add(path + b"/f", regular(path))
    before = workshop.commit(tree)
    if reopen:
        tree = workshop.change()
    else:
        tree.add(b"a/b/d/new", regular())
    tree.remove(b"a/b/" + MARKER)
    after = workshop.commit(tree)
    assert after.catalogs.keys() == {b"", b"/a", b"/a/b/c", b"/a/b/d"}
    assert after.catalogs[b"/a/b/c"] == before.catalogs[b"/a/b/c"]
    tree.remove(b"a/b/d")
    tree.remove(b"a/" + MARKER)
    assert workshop.commit(tree).catalogs.keys() == {b"", b"/a/b/c"}


def test_groups_of_merged_catalogs_and_new_ones_stay_apart(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for path in (b"a", b"b", b"c"):
            nested(tree, path)
            for name in (b"/1", b"/2", b"/3"):
                tree.add(path + name, regular(name))
                tree.link(path + name, path + name + b" again")
        workshop.commit(tree)
        tree.remove(b"a/" + MARKER)
        tree.remove(b"b/" + MARKER)
        tree.add(b"x", regular(b"x"))
        tree.link(b"x", b"y")
        found = workshop.commit(tree)
        assert len({row.group for path, row in found.rows.items() if row.group and not path.startswith(b"/c")}) == 7


def test_only_what_changed_is_fetched_and_written(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for group in range(10):
            nested(tree, b"g%d" % group)
            for number in range(10):
                nested(tree, b"g%d/n%d" % (group, number))
                tree.add(b"g%d/n%d/file" % (group, number), regular())
        workshop.commit(tree)
    watched = FaultyStore(workshop.store)
    with WritableCatalogTree(watched, workshop.root, workshop.scratch) as tree:
        tree.replace(b"g3/n4/file", regular(b"new"))
        workshop.commit(tree)
        assert workshop.result is not None
        assert len(workshop.result.catalogs) == 3
        assert [operation for operation, _ in watched.operations] == ["get"] * 3
    with WritableCatalogTree(watched, workshop.root, workshop.scratch) as tree:
        watched.operations.clear()
        tree.remove(b"g5")
        assert len(watched.operations) == 2, "the root, and the dropped catalog's counters"
        found = workshop.commit(tree)
        assert len(found.catalogs) == 1 + 9 + 90


def test_more_catalogs_than_are_kept_open(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for number in range(60):
            nested(tree, b"n%d" % number)
        for number in range(60):
            tree.add(b"n%d/file" % number, regular())
        found = workshop.commit(tree)
        for number in range(60):
            tree.add(b"n%d/other" % number, regular())
        assert len(list(tree.walk())) == len(found.rows) + 60
        workshop.commit(tree)
    with workshop.read() as reader:
        assert len(list(reader.walk())) == 1 + 60 * 4
        assert len(list(reader.catalogs())) == 61
        assert len(list(workshop.scratch.iterdir())) == 1
        files = next(workshop.scratch.iterdir())
        assert len(list(files.iterdir())) <= 24


def test_the_same_content_gives_the_same_catalogs(tmp_path: Path) -> None:
    paths = [b"d%d/f%d" % (number % 7, number) for number in range(200)]
    roots: set[ContentHash | None] = set()
    for order in (paths, paths[::-1]):
        base = tmp_path / str(len(roots))
        base.mkdir()
        shop = Workshop(base)
        tree = shop.change()
        for number in range(7) if order is paths else reversed(range(7)):
            tree.add(b"d%d" % number, directory())
        for path in order:
            tree.add(path, regular(path))
        if order is paths:
            tree.add(b"d1/extra", regular())
            tree.remove(b"d1/extra")
        shop.commit(tree)
        roots.add(shop.root)
        shop.close()
    assert len(roots) == 1


def test_revisions_and_their_predecessors(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        first = workshop.commit(tree)
        tree.add(b"b", regular())
        second = workshop.commit(tree)
        tree.add(b"a/c", regular())
        tree.set_root_property("TTL", "61")
        third = workshop.commit(tree)
    assert "previous_revision" not in first.properties[b""]
    assert second.properties[b""]["previous_revision"] == first.catalogs[b""]
    assert third.properties[b""] == {
        "schema": "2.5",
        "schema_revision": str(SCHEMA_REVISION),
        "revision": "3",
        "previous_revision": second.catalogs[b""],
        "last_modified": "1700000003",
        "TTL": "61",
    }
    assert second.catalogs[b"/a"] == first.catalogs[b"/a"]
    assert third.properties[b"/a"]["revision"] == "2"
    assert third.properties[b"/a"]["previous_revision"] == first.catalogs[b"/a"]
    with workshop.read() as reader:
        catalog = reader.catalog(b"")
        assert (catalog.revision, catalog.ttl, catalog.last_modified) == (3, 61, 1_700_000_003)
        assert catalog.previous_revision == ContentHash.parse(second.catalogs[b""] + "C")


def test_hard_links(workshop: Workshop) -> None:
    def links(*names: bytes) -> list[tuple[int, bool]]:
        found = [tree.entry(b"d/" + name) for name in names]
        return [(entry.linkcount, entry.hardlink_group > 0) for entry in found if entry]

    with workshop.change() as tree:
        tree.add(b"d", directory())
        tree.add(b"d/a", chunked(b"a", (1, 2)))
        tree.link(b"d/a", b"d/b")
        tree.link(b"d/b", b"d/c")
        tree.add(b"d/x", regular(b"x"))
        tree.link(b"d/x", b"d/y")
        assert links(b"a", b"b", b"c", b"x", b"y") == [(3, True)] * 3 + [(2, True)] * 2
        workshop.commit(tree)
        tree.replace(b"d/b", regular(b"alone"))
        assert links(b"a", b"b", b"c") == [(2, True), (1, False), (2, True)]
        workshop.commit(tree)
        tree.remove(b"d/a")
        assert links(b"c", b"x", b"y") == [(1, False), (2, True), (2, True)]
        workshop.commit(tree)
        with pytest.raises(UsageError, match="within one directory"):
            tree.link(b"d/c", b"c")
        with pytest.raises(UsageError, match="exists already"):
            tree.link(b"d/c", b"d/x")
        with pytest.raises(UsageError, match="no file"):
            tree.link(b"d", b"e")


def test_replacing_files_by_directories_and_back(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        tree.add(b"f", regular(b"f"))
        workshop.commit(tree)
        tree.replace(b"f", directory())
        tree.add(b"f/g", symlink(b"x"))
        tree.replace(b"a", regular(b"a"))
        found = workshop.commit(tree)
        assert found.rows.keys() == {b"", b"/a", b"/f", b"/f/g"}
        assert found.catalogs.keys() == {b""}
        tree.replace(b"f/g", directory(mode=0o040700))
        tree.replace(b"new", regular())
        assert workshop.commit(tree).rows[b"/f/g"].mode == 0o040700


def test_replacing_the_marker_keeps_the_nested_catalog(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        nested(tree, b"a/b")
        before = workshop.commit(tree)
        tree.replace(b"a/" + MARKER, regular(b"text"))
        after = workshop.commit(tree)
        assert before.catalogs.keys() == after.catalogs.keys()
        assert before.catalogs[b"/a/b"] == after.catalogs[b"/a/b"]


def test_metadata_of_nested_roots_stays_the_same_on_both_sides(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        workshop.commit(tree)
    with workshop.change() as tree:
        tree.touch(b"a", directory(mode=0o040711, uid=5, mtime=9, mtime_ns=1, xattrs={b"user.a": b"b"}))
        tree.add(b"a/sub", directory())
        found = workshop.commit(tree)
        assert (found.rows[b"/a"].mode, found.rows[b"/a"].links) == (0o040711, 3)
        tree.touch(b"", directory(mode=0o040700))
        assert workshop.commit(tree).rows[b""].mode == 0o040700


@pytest.mark.parametrize(
    ("path", "entry", "message"),
    [
        (b"missing/f", regular(), "/missing does not exist"),
        (b"file/f", regular(), "/file is not a directory"),
        (b"link/f", regular(), "/link is not a directory"),
        (b"file", regular(), "/file exists already"),
        (b"dir", directory(), "/dir exists already"),
        (b"/slash", regular(), "not relative"),
        (b"dir/", regular(), "/dir/ cannot be published: it has an empty name"),
        (b"dir/" + b"n" * 256, regular(), "not a file name"),
        (b"dir/..", regular(), "not a file name"),
        (b"dir/f", regular(hash=None), "/dir/f cannot be published: it has no content hash"),
        (b"dir/f", regular(xattrs={b"user.big": bytes(300)}), "/dir/f cannot be published: Extended attribute"),
        (b"dir/" + MARKER, directory(), "not a regular file"),
        (b"dir/" + MARKER, symlink(b"x"), "not a regular file"),
        (MARKER, regular(), "the root always has a catalog"),
    ],
)
def test_what_is_refused_leaves_the_tree_as_it_was(
    workshop: Workshop, path: bytes, entry: object, message: str
) -> None:
    with workshop.change() as tree:
        tree.add(b"dir", directory())
        tree.add(b"file", regular())
        tree.add(b"link", symlink(b"dir"))
        before = workshop.commit(tree)
        with pytest.raises((UsageError, SourceError), match=message):
            tree.add(path, entry)  # type: ignore[arg-type]
        assert workshop.commit(tree).rows == before.rows


def test_removing_what_is_not_there(workshop: Workshop) -> None:
    with workshop.change() as tree:
        with pytest.raises(UsageError, match="no such entry"):
            tree.remove(b"x")
        with pytest.raises(UsageError, match="root"):
            tree.remove(b"")
        with pytest.raises(UsageError, match="no directory"):
            tree.touch(b"x", directory())


def test_a_new_repository_needs_its_root(workshop: Workshop) -> None:
    with WritableCatalogTree(workshop.store, None, workshop.scratch) as tree:
        with pytest.raises(UsageError, match="root directory"):
            tree.commit(workshop.put, 1, 1)
        with pytest.raises(UsageError, match="does not exist"):
            tree.add(b"x", regular())


def test_damage_is_named(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        found = workshop.commit(tree)
    digest = found.catalogs[b"/a"]
    file = workshop.storage / "data" / digest[:2] / (digest[2:] + "C")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + b"?")
    with workshop.read() as reader:
        assert reader.entry(b"a") is not None
        with pytest.raises(CorruptObject, match=digest[2:]):
            reader.entry(b"a/x")
    file.unlink()
    with workshop.read() as reader, pytest.raises(ObjectNotFound):
        list(reader.walk())


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(4080)])
def test_what_is_no_catalog_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(CorruptObject):
        Catalog(file)


def test_a_nested_catalog_of_another_place_is_refused(workshop: Workshop) -> None:
    with workshop.change() as tree:
        nested(tree, b"a")
        found = workshop.commit(tree)
    inner = ContentHash.parse(found.catalogs[b"/a"] + "C")
    with (
        CatalogTree(workshop.store, inner, workshop.scratch) as reader,
        pytest.raises(CorruptObject, match="is that of /a"),
    ):
        reader.entry(b"")


def _old_catalog(revision: int) -> bytes:
    """Return a catalog as CernVM-FS wrote it years ago: a root, a directory, a file; with an unused counter."""
    xattr = ", xattr BLOB" if revision >= 2 else ""
    size = ", size INTEGER" if revision >= 1 else ""
    db = sqlite3.connect(":memory:")
    tables = f"""
        CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key));
        CREATE TABLE catalog (md5path_1 INTEGER, md5path_2 INTEGER, parent_1 INTEGER, parent_2 INTEGER,
          hardlinks INTEGER, hash BLOB, size INTEGER, mode INTEGER, mtime INTEGER, flags INTEGER, name TEXT,
          symlink TEXT, uid INTEGER, gid INTEGER{xattr}, CONSTRAINT pk_catalog PRIMARY KEY (md5path_1, md5path_2));
        CREATE INDEX idx_catalog_parent ON catalog (parent_1, parent_2);
        CREATE TABLE chunks (md5path_1 INTEGER, md5path_2 INTEGER, offset INTEGER, size INTEGER, hash BLOB,
          CONSTRAINT pk_chunks PRIMARY KEY (md5path_1, md5path_2, offset, size));
        CREATE TABLE nested_catalogs (path TEXT, sha1 TEXT{size}, CONSTRAINT pk_nested_catalogs PRIMARY KEY (path));
        CREATE TABLE statistics (counter TEXT, value INTEGER, CONSTRAINT pk_statistics PRIMARY KEY (counter));
            """
    db.executescript(tables)
    values = [("schema", "2.5"), ("revision", "12"), ("last_modified", "1400000000")]
    db.executemany("INSERT INTO properties VALUES (?, ?)", values)
    if revision:
        db.execute("INSERT INTO properties VALUES ('schema_revision', ?)", (revision,))
    rows = [
        (*md5path(b""), 0, 0, 3, None, 4096, 0o040755, 1, 1, "", "", 0, 0),
        (*md5path(b"/d"), *md5path(b""), 2, None, 4096, 0o040755, 1, 1, "d", "", 0, 0),
        (*md5path(b"/d/f"), *md5path(b"/d"), 1, bytes(range(20)), 3, 0o100644, 1, 4, "f", "", 0, 0),
    ]
    places = ", ".join("?" * len(rows[0])) + (", NULL" if revision >= 2 else "")
    db.executemany(f"INSERT INTO catalog VALUES ({places})", rows)  # noqa: S608
    counters = {"self_regular": 1, "self_dir": 2, "self_file_size": 3, "subtree_regular": 0}
    db.executemany("INSERT INTO statistics VALUES (?, ?)", counters.items())
    db.commit()
    return db.serialize()


@pytest.mark.parametrize("revision", [0, 1, 2, 5])
def test_catalogs_of_earlier_revisions_are_read_and_upgraded(workshop: Workshop, revision: int) -> None:
    workshop.root, _ = workshop.put(_old_catalog(revision))
    with workshop.read() as reader:
        entry = reader.entry(b"d/f")
        assert entry is not None
        assert (entry.size, entry.mtime_ns, entry.xattrs) == (3, None, {})
        assert [path for path, _ in reader.walk()] == [b"", b"d", b"d/f"]
        assert reader.catalog(b"").nested() == []
        assert reader.catalog(b"").bind_mountpoints() == []
        assert reader.statistics().own.regular == 1
    with workshop.change() as tree:
        nested(tree, b"n")
        tree.add(b"d/g", regular(b"g", mtime_ns=5, xattrs={b"user.a": b"b"}))
        found = workshop.commit(tree)
    assert found.rows.keys() == {b"", b"/d", b"/d/f", b"/d/g", b"/n", b"/n/.cvmfscatalog"}


def test_schemas_that_nobody_writes_any_more_are_refused(workshop: Workshop) -> None:
    db = sqlite3.connect(":memory:")
    db.deserialize(_old_catalog(5))
    db.execute("UPDATE properties SET value = '1.0' WHERE key = 'schema'")
    db.commit()
    workshop.root, _ = workshop.put(db.serialize())
    with workshop.read() as reader, pytest.raises(CorruptObject, match="schema 1"):
        reader.entry(b"")


def test_a_full_scratch_disk_is_named(workshop: Workshop) -> None:
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with workshop.change() as tree:
            for number in range(5000):
                tree.add(b"%d" % number, regular(b"%d" % number))
            resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, old_limit[1]))
            with pytest.raises(PublisherError, match="scratch directory") as caught:
                tree.commit(workshop.put, 1, 1)
            assert "Free space" in str(caught.value)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)


def test_a_scratch_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PublisherError, match="scratch directory"):
        WritableCatalogTree(LocalStore(tmp_path / "storage"), None, tmp_path / "missing")


def test_an_upload_that_fails_ends_the_commit(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for number in range(30):
            nested(tree, b"n%d" % number)

        def put(data: Bytes) -> tuple[ContentHash, int]:
            if b"/n7" in bytes(data):
                raise ObjectNotFound("no such bucket")
            return workshop.put(data)

        with pytest.raises(ObjectNotFound):
            tree.commit(put, 1, 1)


def test_the_object_is_the_compressed_database(workshop: Workshop) -> None:
    with workshop.change() as tree:
        workshop.commit(tree)
    assert workshop.result is not None
    assert workshop.root is not None
    stored = (workshop.storage / workshop.root.key()).read_bytes()
    assert hashlib.sha1(stored, usedforsecurity=False).digest() == workshop.root.digest
    data = zlib.decompress(stored)
    assert data.startswith(b"SQLite format 3\0")
    assert workshop.result.root_size == len(data)
    assert workshop.root.suffix == HashSuffix.CATALOG
    assert read_object(workshop.storage, workshop.root.hex, "C") == data
    assert judge(workshop.storage, workshop.root.hex).catalogs == {b"": workshop.root.hex}


def test_a_large_tree_in_one_go(workshop: Workshop, tmp_path: Path) -> None:
    with workshop.change() as tree:
        for top in range(100):
            tree.add(b"d%d" % top, directory())
            for number in range(100):
                tree.add(b"d%d/f%d" % (top, number), regular(b"%d" % number))
        workshop.commit(tree)
        assert workshop.root is not None
        (tmp_path / "published").write_bytes(read_object(workshop.storage, workshop.root.hex, "C"))
        sqlite3.connect(tmp_path / "published").execute("VACUUM INTO ?", (str(tmp_path / "compact"),))
        assert (tmp_path / "compact").stat().st_size == (tmp_path / "published").stat().st_size
        tree.remove(b"d3")
        tree.add(b"d4/" + MARKER, regular())
        assert len(workshop.commit(tree).rows) == 1 + 99 * 101 + 1


def test_a_large_catalog_is_not_taken_into_memory(workshop: Workshop) -> None:
    with workshop.change() as tree:
        for number in range(20_000):
            tree.add(b"%d" % number + b"-" * 200, regular(b"%d" % number))
        tracemalloc.start()
        try:
            tree.commit(lambda data: (ContentHash.of(data, suffix=HashSuffix.CATALOG), 0), 1, 1)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 20_000 * 100


def test_moving_many_entries_between_catalogs_takes_little_memory(workshop: Workshop) -> None:
    count = 20_000
    with workshop.change() as tree:
        tree.add(b"d", directory())
        for number in range(count):
            tree.add(b"d/file%d" % number, regular(b"%d" % number))
        tracemalloc.start()
        try:
            tree.create_nested(b"d")
            tree.remove_nested(b"d")
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 100 * count
        assert len(workshop.commit(tree).rows) == count + 2
