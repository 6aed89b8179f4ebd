# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on all catalogs: list-catalogs, catalog-chown, eliminate-hardlinks, fix-stats, migrate and their like."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.content import ContentHash, HashSuffix, fetch_object, put_object
from cvmfs_publisher.operations.list_catalogs import list_catalogs
from cvmfs_publisher.operations.transaction import exclusive
from cvmfs_publisher.storage import ObjectStore
from operations.managers import ReleaseManager, make, mirror
from operations.reading import Tree, published

TREE = {
    "file": "x",
    "large": b"large" * 40_000,
    "a__.cvmfscatalog": "",
    "a__one": "1",
    "a__deep__.cvmfscatalog": "",
    "a__deep__two": "2",
    "b__.cvmfscatalog": "",
    "b__three": "3",
}
CATALOGS = [b"", b"sw/a", b"sw/a/deep", b"sw/b"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    directory = make(tmp_path / "tree", **TREE)
    os.link(directory / "a/deep/two", directory / "a/deep/another")
    os.link(directory / "file", directory / "alias")
    return directory


@pytest.fixture
def manager(local: ReleaseManager, tree: Path) -> ReleaseManager:
    """A release manager with nested catalogs, files in chunks, and hard links."""
    local.ingest(mirror(tree))
    return local


def hashes(manager: ReleaseManager) -> dict[bytes, str]:
    return {info.path: info.hash.hex for info in list_catalogs(manager.environment, manager.name)}


def tamper(manager: ReleaseManager, change: Callable[[bytes, sqlite3.Connection], None]) -> None:
    """Publish catalogs that no publisher would write.

    :param change: what is done to the database of the catalog of a path
    """
    settings = manager.environment.settings(manager.name)
    scratch = manager.base / "tampered"

    def write(store: ObjectStore, path: bytes, content_hash: ContentHash) -> ContentHash:
        file = scratch.with_name(content_hash.hex)
        file.write_bytes(fetch_object(store, content_hash))
        with sqlite3.connect(file) as connection:
            for nested, text in connection.execute("SELECT path, sha1 FROM nested_catalogs").fetchall():
                below = ContentHash.parse(text).with_suffix(HashSuffix.CATALOG)
                new = write(store, nested.encode().removeprefix(b"/"), below)
                connection.execute("UPDATE nested_catalogs SET sha1 = ? WHERE path = ?", (new.hex, nested))
            change(path, connection)
        connection.close()
        data = file.read_bytes()
        file.unlink()
        return put_object(store, data, HashSuffix.CATALOG)[0]

    with (
        manager.store() as store,
        exclusive(manager.environment, settings, store) as lease,
        manager.environment.open(manager.name) as repository,
    ):
        root = write(store, b"", repository.manifest.root_hash)
        manifest = replace(repository.manifest, root_hash=root, revision=repository.manifest.revision + 1)
        repository.commit(manifest, manager.environment.repository_key(manager.name), lease=lease)


# list-catalogs


def test_listing(manager: ReleaseManager) -> None:
    assert manager.server("list-catalogs").succeeded().stdout.splitlines() == [
        "/",
        "├─ /sw/a",
        "│  ├─ /sw/a/deep",
        "├─ /sw/b",
    ]
    lines = manager.server("list-catalogs", "-x", "-h", "-s", "-e").succeeded().stdout.splitlines()
    entries = {b"": 8, b"sw/a": 4, b"sw/a/deep": 4, b"sw/b": 3}
    for line, path, info in zip(lines, CATALOGS, list_catalogs(manager.environment, manager.name), strict=True):
        assert info.entries == entries[path]
        assert line == f"{info.hash.hex} {info.size}B {info.entries} /{path.decode()}"
    document = manager.server("list-catalogs", "--json").succeeded().document
    assert [(item["path"], item["level"]) for item in document["catalogs"]] == [
        ("", 0),
        ("sw/a", 1),
        ("sw/a/deep", 2),
        ("sw/b", 1),
    ]


def test_listing_of_what_is_checked_out(manager: ReleaseManager, tree: Path) -> None:
    manager.server("tag", "-a", "before").succeeded()
    before = hashes(manager)
    manager.ingest(mirror(tree / "a", "other", nested_catalog=True))
    assert hashes(manager) != before
    manager.server("checkout", "-t", "before", "-b", "branch").succeeded()
    assert hashes(manager) == before


def test_a_catalog_is_missing(manager: ReleaseManager) -> None:
    missing = ContentHash.parse(hashes(manager)[b"sw/a/deep"]).with_suffix(HashSuffix.CATALOG).key()
    with manager.store() as store:
        store.delete(missing)
    manager.refuses("list-catalogs", says=[missing])
    manager.refuses("migrate", says=[missing])


# catalog-chown


def test_owners(manager: ReleaseManager, tmp_path: Path) -> None:
    (tmp_path / "uid.map").write_text("0 7\n7 0\n")
    (tmp_path / "gid.map").write_text("* 12\n")
    manager.server("tag", "-a", "kept").succeeded()
    before, described = published(manager), manager.manifest()
    maps = ["-u", tmp_path / "uid.map", "-g", tmp_path / "gid.map"]
    document = manager.server("catalog-chown", *maps, "--json").succeeded().document
    assert (document["changed"], document["catalogs"], document["rewritten"]) == (True, 4, 4)
    manager.check()
    after = published(manager)
    assert after.revision == before.revision + 1
    assert after.tree == {path: replace(seen, uid=7, gid=12) for path, seen in before.tree.items()}
    manager.server("catalog-chown", *maps).succeeded()
    assert {(seen.uid, seen.gid) for seen in published(manager).tree.values()} == {(0, 12)}
    assert manager.manifest().meta_info == described.meta_info
    tag = manager.server("tag", "--json", "-i", "kept").succeeded().document
    assert tag["root_hash"] == described.root_hash.hex


def test_catalogs_without_such_owners_stay(manager: ReleaseManager, tree: Path, tmp_path: Path) -> None:
    os.chown(tree / "b/three", 30, 30)
    manager.ingest(mirror(tree))
    (tmp_path / "map").write_text("30 31")
    before = hashes(manager)
    outcome = manager.server("catalog-chown", "-u", tmp_path / "map", "-g", tmp_path / "map").succeeded()
    assert "2 of 4 catalogs were written anew" in outcome.stdout
    changed = {path for path, content_hash in hashes(manager).items() if content_hash != before[path]}
    assert changed == {b"", b"sw/b"}
    manager.check()

    state = manager.state()
    outcome = manager.server("catalog-chown", "-u", tmp_path / "map", "-g", tmp_path / "map").succeeded()
    assert "nothing to do in 4 catalogs, revision 4 stays" in outcome.stdout
    assert manager.state().published == state.published


def test_owners_of_instant_snapshots_stay(manager: ReleaseManager, tree: Path, tmp_path: Path) -> None:
    """They are CernVM-FS's own; and what they show is another revision's."""
    manager.configure(CVMFS_VIRTUAL_DIR="true", CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    for number, name in enumerate(("one", "two", None)):
        make(tree, file=f"{number}")
        manager.ingest(mirror(tree), tag=name)
    before = hashes(manager)
    (tmp_path / "map").write_text("* 5")
    document = manager.server("catalog-chown", "-u", tmp_path / "map", "-g", tmp_path / "map", "--json").document
    assert (document["catalogs"], document["rewritten"]) == (5, 4)
    assert hashes(manager)[b".cvmfs"] == before[b".cvmfs"]
    with manager.store() as store, CatalogTree(store, manager.manifest().root_hash, manager.tmp) as found:
        owners = {path: (entry.uid, entry.gid) for path, entry in found.walk()}
    own = {path for path in owners if path.startswith(b".cvmfs")}
    assert {owners[path] for path in own} == {(0, 0)}
    assert {owners[path] for path in owners.keys() - own} == {(5, 5)}
    manager.check()
    manager.server("gc", "-f", "-r", "0").succeeded()
    manager.check()
    for name in ("one", "two"):
        manager.server("check", "-i", "-t", name).succeeded()


def test_bad_maps(manager: ReleaseManager, tmp_path: Path) -> None:
    (tmp_path / "good").write_text("* 0")
    (tmp_path / "bad").write_text("0 0\nroot 0")
    good, bad, none = (tmp_path / name for name in ("good", "bad", "none"))
    manager.refuses("catalog-chown", "-u", bad, "-g", good, says=["bad, line 2 is no rule: 'root 0'"])
    manager.refuses("catalog-chown", "-u", good, "-g", none, says=["Cannot read the map of owners", "none"])


# Hard links, bulk hashes


def test_hard_links(manager: ReleaseManager) -> None:
    before = published(manager)
    assert any(seen.names for seen in before.tree.values())
    manager.server("eliminate-hardlinks", "-f").succeeded()
    manager.check()
    after = published(manager)
    assert after.tree == {path: replace(seen, names=frozenset()) for path, seen in before.tree.items()}
    assert "nothing to do" in manager.server("eliminate-hardlinks", "-f").succeeded().stdout


@pytest.mark.parametrize("command", ["eliminate-hardlinks", "eliminate-bulk-hashes", "fix-stats"])
def test_questions(manager: ReleaseManager, command: str) -> None:
    state = manager.state()
    outcome = manager.server(command, stdin=b"n\n")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Are you sure" in outcome.stderr
    assert manager.state() == state
    manager.server(command, stdin=b"y\n").succeeded()


def test_bulk_hashes(manager: ReleaseManager) -> None:
    def add(_: bytes, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE catalog SET hash = zeroblob(20) WHERE flags & 64")

    tamper(manager, add)
    manager.server("eliminate-bulk-hashes", "-f").succeeded()
    manager.check()
    assert "nothing to do" in manager.server("eliminate-bulk-hashes", "-f").succeeded().stdout


# Counters, schema


def test_wrong_counters(manager: ReleaseManager) -> None:
    def spoil(path: bytes, connection: sqlite3.Connection) -> None:
        if path in (b"", b"sw/a/deep"):
            connection.execute("UPDATE statistics SET value = value + 5 WHERE counter LIKE '%regular'")

    tamper(manager, spoil)
    assert manager.server("check").code == 1
    manager.server("fix-stats", "-f").succeeded()
    manager.check()


def _age(schema: str, revision: int | None, *, statistics: bool = True) -> Callable[[bytes, sqlite3.Connection], None]:
    """Turn catalogs into such as earlier versions wrote."""

    def change(_: bytes, connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE properties SET value = ? WHERE key = 'schema'", (schema,))
        connection.execute("DELETE FROM properties WHERE key = 'schema_revision'")
        if revision is not None:
            connection.execute("INSERT INTO properties VALUES ('schema_revision', ?)", (str(revision),))
        if (revision or 0) < 7:
            connection.execute("ALTER TABLE catalog DROP COLUMN mtimens")
        if (revision or 0) < 4:
            connection.execute("DROP TABLE bind_mountpoints")
        if (revision or 0) < 2:
            connection.execute("ALTER TABLE catalog DROP COLUMN xattr")
        if (revision or 0) < 1:
            connection.execute("ALTER TABLE nested_catalogs DROP COLUMN size")
        if not statistics:
            connection.execute("DELETE FROM statistics WHERE counter GLOB '*_chunk*' OR counter LIKE '%file_size'")

    return change


@pytest.mark.parametrize(
    "age",
    [_age("2.4", None, statistics=False), _age("2.5", None), _age("2.5", 1), _age("2.5", 3), _age("2.5", 6)],
    ids=["2.4", "2.5", "2.5 revision 1", "2.5 revision 3", "2.5 revision 6"],
)
def test_earlier_schemas(manager: ReleaseManager, age: Callable[[bytes, sqlite3.Connection], None]) -> None:
    before = published(manager)
    tamper(manager, age)
    document = manager.server("migrate", "--json").succeeded().document
    assert (document["changed"], document["rewritten"]) == (True, 4)
    manager.check()
    after = published(manager)
    assert after.catalogs == before.catalogs
    assert seconds(after.tree) == seconds(before.tree)
    assert set(schemas(manager)) == {("2.5", "7")}
    assert "nothing to do in 4 catalogs" in manager.server("migrate").succeeded().stdout


def test_catalogs_of_another_age(manager: ReleaseManager) -> None:
    """Those of CernVM-FS 2.0 are left to its own tools; so is what a later version may come with."""
    for schema, remedy in (("2.1", "import -l"), ("2.6", "a later version")):
        tamper(manager, lambda path, connection, schema=schema: set_schema(path, connection, schema))  # type: ignore[misc]
        manager.refuses("migrate", says=[f"A catalog has schema {schema}; only 2.4 to 2.5 are supported", remedy])


def set_schema(path: bytes, connection: sqlite3.Connection, schema: str) -> None:
    if path == b"sw/a":
        connection.execute("UPDATE properties SET value = ? WHERE key = 'schema'", (schema,))


def seconds(tree: Tree) -> Tree:
    """Return a tree without what is below a second in it, which earlier schemas do not have."""
    return {path: replace(seen, mtime_ns=seen.mtime_ns // 10**9) for path, seen in tree.items()}


def test_only_earlier_catalogs_are_written(manager: ReleaseManager) -> None:
    change = _age("2.5", 6)
    tamper(manager, lambda path, connection: change(path, connection) if path == b"sw/b" else None)
    before = hashes(manager)
    manager.server("migrate").succeeded()
    manager.check()
    assert {path for path, text in hashes(manager).items() if text != before[path]} == {b"", b"sw/b"}


def schemas(manager: ReleaseManager) -> Iterator[tuple[str, str]]:
    """Yield the schema and its revision of each catalog."""
    with manager.store() as store, CatalogTree(store, manager.manifest().root_hash, manager.tmp) as tree:
        for path, _ in tree.catalogs():
            properties = tree.catalog(path).properties()
            yield properties["schema"], properties["schema_revision"]


@pytest.mark.parametrize(
    "command", [("eliminate-hardlinks", "-f"), ("eliminate-bulk-hashes", "-f"), ("fix-stats", "-f"), ("migrate",)]
)
def test_not_in_a_transaction(manager: ReleaseManager, command: tuple[str, ...]) -> None:
    manager.server("transaction").succeeded()
    manager.refuses(*command, says=["has the transaction"])


def test_several_repositories_are_migrated(manager: ReleaseManager) -> None:
    assert manager.run("migrate", manager.name, manager.name).succeeded().stdout.count("nothing to do") == 2
