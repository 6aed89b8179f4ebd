# SPDX-License-Identifier: GPL-3.0-or-later
"""Template transactions: a copy of a directory to begin with."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from changes.repository import Repository, Seen
from changes.repository import merge as merge_into
from hypothesis import given, reject, settings

from cvmfs_publisher.content import fetch_object
from cvmfs_publisher.errors import SourceError
from operations.managers import ReleaseManager, changes_file, make, merge, mirror
from operations.reading import below, published
from operations.trees import Node, trees, write

TREE = {
    "bin__tool": "tool",
    "large": b"large" * 40_000,
    "lib__.cvmfscatalog": "",
    "lib__one": "1",
    "lib__deep__.cvmfscatalog": "",
    "lib__deep__two": "2",
}


@pytest.fixture
def manager(local: ReleaseManager, tmp_path: Path) -> ReleaseManager:
    """A release manager with a release /sw/1.0, with nested catalogs, hard links and a symbolic link."""
    source = make(tmp_path / "1.0", **TREE)
    os.link(source / "bin/tool", source / "bin/alias")
    (source / "link").symlink_to("bin/tool")
    os.chown(source / "lib/one", 30, 31)
    local.ingest(mirror(source, "sw/1.0"))
    local.ingest(merge(make(tmp_path / "other", file=""), "other"))
    return local


def test_the_copy_is_published(manager: ReleaseManager) -> None:
    before = published(manager)
    root = manager.manifest().root_hash.hex
    objects = data_objects(manager)
    outcome = manager.server("transaction", "-T", "/sw/1.0=/sw/1.1").succeeded()
    assert "/sw/1.1 has 12 copied entries" in outcome.stdout
    assert published(manager) == before, "nothing is published yet"
    document = manager.server("publish", "--json").succeeded().document
    assert (document["changed"], document["added"], document["paths"]["added"]) == (True, 12, ["sw/1.1"])
    manager.check()
    after = published(manager)
    assert after.revision == before.revision + 1
    original = below(before.tree, b"sw/1.0")
    assert below(after.tree, b"sw/1.1") == {path: replace(seen, names=frozenset()) for path, seen in original.items()}
    assert below(after.tree, b"sw/1.0") == original
    assert after.catalogs == before.catalogs | {b"sw/1.1/lib", b"sw/1.1/lib/deep"}
    assert data_objects(manager) == objects, "no content was stored"
    assert previous_revision(manager) == root


def data_objects(manager: ReleaseManager) -> set[str]:
    with manager.store() as store:
        return {info.key for info in store.list("data/") if info.key[-1] not in "CHXM"}


def previous_revision(manager: ReleaseManager) -> str:
    """Return what the root catalog says that was published before."""
    with manager.store() as store, tempfile.NamedTemporaryFile() as file:
        file.write(fetch_object(store, manager.manifest().root_hash))
        file.flush()
        query = "SELECT value FROM properties WHERE key = 'previous_revision'"
        return str(sqlite3.connect(file.name).execute(query).fetchone()[0])


def test_the_copy_is_changed(manager: ReleaseManager, tmp_path: Path) -> None:
    """A patch release: the copy, with files replaced, added and removed, in one revision."""
    root = manager.manifest().root_hash.hex
    patch = make(tmp_path / "patch", bin__tool="better", lib__deep__three="3")
    manager.server("transaction", "-U", "/sw/1.0", "-V", "/sw/1.1").succeeded()
    changes = changes_file(
        tmp_path / "changes.json",
        {"source": str(patch), "base_dir": "sw/1.1", "mode": "merge"},
        {"delete": "sw/1.1/large"},
    )
    predicted = manager.server("publish", "--dry-run", "--json", "--changes", changes).succeeded().document
    document = manager.server("publish", "--json", "--changes", changes).succeeded().document
    same = ("added", "modified", "removed", "paths")
    assert {key: predicted[key] for key in same} == {key: document[key] for key in same}
    manager.check()
    after = published(manager)
    assert after.tree[b"sw/1.1/bin/tool"].content == b"better"
    assert after.tree[b"sw/1.0/bin/tool"].content == b"tool"
    assert b"sw/1.1/lib/deep/three" in after.tree
    assert b"sw/1.1/large" not in after.tree
    assert previous_revision(manager) == root


def test_rules_are_applied_to_the_copy(manager: ReleaseManager, tmp_path: Path) -> None:
    manager.ingest(merge(make(tmp_path / "rules", **{".cvmfsdirtab": "/releases/*\n"}), ""))
    manager.ingest(merge(make(tmp_path / "releases", file=""), "releases"))
    manager.server("transaction", "-T", "/sw/1.0=/releases/1.0").succeeded()
    manager.server("publish").succeeded()
    manager.check()
    assert b"releases/1.0" in published(manager).catalogs


def test_the_copy_is_dropped(manager: ReleaseManager) -> None:
    before = published(manager)
    manager.server("transaction", "-T", "/sw/1.0=/sw/1.1").succeeded()
    manager.server("abort", "-f").succeeded()
    assert published(manager) == before
    manager.server("transaction").succeeded()
    assert manager.server("publish", "--json").succeeded().document["changed"] is False


@pytest.mark.parametrize(
    ("copy", "path", "says"),
    [
        ("/sw/2.0=/sw/2.1", "", "/sw/2.0 does not exist"),
        ("/other/file=/sw/1.1", "", "/other/file is no directory"),
        ("/sw/1.0=/other", "", "/other exists already"),
        ("/sw/1.0=/none/1.1", "", "/none does not exist"),
        ("/sw/1.0=/other/file/1.1", "", "/other/file is no directory"),
        ("/sw/1.0=/sw/1.1", "/other", "/sw/1.1 is outside /other"),
    ],
)
def test_what_cannot_be_copied(manager: ReleaseManager, copy: str, path: str, says: str) -> None:
    before = manager.state()
    outcome = manager.run("transaction", "-T", copy, manager.name + path)
    assert (outcome.code, outcome.stdout) == (22, "")
    assert outcome.stderr.startswith("cvmfs_server transaction: ")
    assert says in outcome.stderr
    assert manager.state() == before


def test_a_catalog_is_missing(manager: ReleaseManager) -> None:
    """The transaction is not opened then."""
    with manager.store() as store:
        for info in list(store.list("data/")):
            if info.key.endswith("C") and info.key != manager.manifest().root_hash.key():
                store.delete(info.key)
    manager.refuses("transaction", "-T", "/sw/1.0=/sw/1.1", says=["is missing"])


@settings(max_examples=15, deadline=None)
@given(tree=trees)
def test_any_tree(tree: Node) -> None:
    with tempfile.TemporaryDirectory() as directory:
        write(tree, os.fsencode(Path(directory, "source")))
        repository = Repository(Path(directory, "repository"))
        try:
            repository.publish(merge_into(Path(directory, "source"), "a/b"))
        except SourceError:  # hard links to markers cannot be published
            reject()
        original = repository.seen(b"a/b")
        nested = {path for path in repository.judgement().catalogs if path.startswith(b"/a/b")}
        with repository.tree() as opened:
            assert opened.clone(b"a/b", b"a/copy") == len(original)
            repository.commit(opened)
        copied: dict[bytes, Seen] = {path: replace(seen, names=frozenset()) for path, seen in original.items()}
        assert repository.seen(b"a/copy") == copied
        assert repository.seen(b"a/b") == original
        assert {path for path in repository.judgement().catalogs if path.startswith(b"/a/copy")} == {
            path.replace(b"/a/b", b"/a/copy", 1) for path in nested
        }
