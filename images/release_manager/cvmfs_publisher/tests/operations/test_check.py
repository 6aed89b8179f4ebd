# SPDX-License-Identifier: GPL-3.0-or-later
"""What check finds, what it says about it, and what it can put back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults import Fault

from cvmfs_publisher.catalog import CatalogTree
from cvmfs_publisher.content import ContentHash, HashSuffix, fetch_object, put_object
from cvmfs_publisher.operations.check import check
from cvmfs_publisher.repository.reflog import REFLOG_KEY, ReferenceType, Reflog
from operations.managers import NAME, ReleaseManager, make, mirror
from operations.reading import served
from operations.stores import FaultyEnvironment


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with small files, chunks, and nested catalogs."""
    marker = {f"{name}__.cvmfscatalog": "" for name in ("one", "two", "two__deep")}
    files = {"one__a": "a" * 100, "two__b": "b" * 100, "two__deep__c": "c" * 100, "d": "d" * 100}
    return make(tmp_path / "tree", large=os.urandom(200_000), **marker, **files)


def storage_of(manager: ReleaseManager) -> Path:
    return Path(manager.settings["CVMFS_UPSTREAM_STORAGE"].rpartition(",")[2])


def catalogs_of(manager: ReleaseManager) -> dict[bytes, ContentHash]:
    with manager.store() as store, CatalogTree(store, manager.manifest().root_hash, manager.tmp) as tree:
        return {path: reference.hash for path, reference in tree.catalogs() if reference is not None}


def objects_of(manager: ReleaseManager, path: bytes) -> list[ContentHash]:
    with manager.store() as store, CatalogTree(store, manager.manifest().root_hash, manager.tmp) as tree:
        entry = tree.entry(path)
        assert entry is not None
        return [chunk.hash for chunk in entry.chunks] or ([entry.hash] if entry.hash else [])


def damage(manager: ReleaseManager, *objects: ContentHash, lose: bool) -> None:
    with manager.store() as store:
        for content_hash in objects:
            if lose:
                store.delete(content_hash.key())
            else:
                store.put(content_hash.key(), b"something else")


def with_root(manager: ReleaseManager, edit: Callable[[sqlite3.Connection], object]) -> None:
    """Publish a root catalog that no publisher makes."""
    key = manager.environment.repository_key(NAME)
    with manager.environment.open(NAME) as repository:
        file = manager.tmp / "catalog"
        file.write_bytes(fetch_object(repository.store, repository.manifest.root_hash))
        with sqlite3.connect(file) as connection:
            edit(connection)
        connection.close()
        data = file.read_bytes()
        root, _ = put_object(repository.store, data, HashSuffix.CATALOG)
        repository.commit(replace(repository.manifest, root_hash=root, catalog_size=len(data)), key)


# One problem among others


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE statistics",
        "UPDATE catalog SET flags = flags | 7 << 8 WHERE length(hash) > 0",
        "UPDATE catalog SET xattr = x'ff' WHERE name = 'large'",
        "DROP TABLE chunks",
    ],
)
def test_a_damaged_catalog_hides_no_other_problem(local: ReleaseManager, tree: Path, statement: str) -> None:
    local.ingest(mirror(tree, ""))
    lost = objects_of(local, b"two/b")
    with_root(local, lambda connection: connection.execute(statement))
    damage(local, *lost, lose=True)
    problems = check(local.environment, NAME).problems
    assert any(text.startswith("The catalog of /: ") for text in problems), problems
    assert any(f"{lost[0].key()} is missing; /two/b refers to it" in text for text in problems), problems
    outcome = local.server("check")
    assert outcome.code == 1
    assert "problems found" in outcome.stdout


def test_nothing_is_written_outside_the_spool_directory(local: ReleaseManager, tree: Path) -> None:
    local.ingest(mirror(tree))
    before = sorted(local.spool.rglob("*"))
    local.environ["TMPDIR"] = "/nowhere"
    local.server("check", "-i").succeeded()
    assert sorted(local.spool.rglob("*")) == before


def test_slow_objects_are_named(local: ReleaseManager, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.ingest(mirror(tree))
    monkeypatch.setattr("cvmfs_publisher.operations.check._SLOW", 0.2)
    (slow,) = objects_of(local, b"sw/two/b")
    environment = FaultyEnvironment(local, [Fault(operations=("get",), keys=slow.key(), delay=0.5)])
    report = check(environment, NAME, integrity=True)
    assert (report.problems, len(report.warnings)) == ([], 1)
    assert report.warnings[0].startswith(f"{slow.key()} (")
    assert report.warnings[0].endswith("s to read")


def test_copies_outside_of_data(local: ReleaseManager, tree: Path) -> None:
    local.configure(CVMFS_CATALOG_ALT_PATHS="true")
    local.ingest(mirror(tree))
    local.check()
    copies = sorted(path.name for path in storage_of(local).glob(".cvmfsalt-*[CX]"))
    assert len(copies) == 2
    for name in copies:
        (storage_of(local) / name).unlink()
    expected = [f"{name} is missing; clients begin with it where data/ is protected" for name in copies]
    assert sorted(check(local.environment, NAME).problems) == expected
    assert check(local.environment, NAME, subtree="sw/one").problems == []
    local.ingest(mirror(tree, "again"))
    local.check()


@pytest.mark.parametrize("integrity", [False, True])
def test_each_problem_has_a_path(local: ReleaseManager, tmp_path: Path, integrity: bool) -> None:
    """With so many objects that the storage is listed, in several catalogs, chunks and equal files among them."""
    files = {f"d{n % 7}__f{n}": f"{n}" for n in range(2500)}
    source = make(tmp_path / "many", d1__same="2", d3__large=os.urandom(500_000), d3__x__deep="deep", **files)
    for name in ("d1", "d3", "d3/x"):
        (source / name / ".cvmfscatalog").touch()
    local.ingest(mirror(source))
    lost = [
        *objects_of(local, b"sw/d3/large")[1:3],
        *objects_of(local, b"sw/d3/x/deep"),
        *objects_of(local, b"sw/d2/f2"),
    ]
    broken = objects_of(local, b"sw/d1/f8")
    damage(local, *lost, lose=True)
    damage(local, *broken, lose=False)
    says = {
        f"{lost[0].key()} is missing; /sw/d3/large refers to it",
        f"{lost[1].key()} is missing; /sw/d3/large refers to it",
        f"{lost[2].key()} is missing; /sw/d3/x/deep refers to it",
    }
    problems = set(check(local.environment, NAME, integrity=integrity).problems)
    assert says < problems
    (either,) = (text for text in problems - says if lost[3].key() in text)
    assert either.partition("; ")[2] in ("/sw/d2/f2 refers to it", "/sw/d1/same refers to it")
    rest = problems - says - {either}
    if integrity:
        (text,) = rest
        assert text.startswith(f"/sw/d1/f8: Object {broken[0].key()} in ")
        assert "does not match its name" in text
    else:
        assert not rest


# Repair


@pytest.mark.parametrize("lose", [True, False], ids=["lost", "damaged"])
@pytest.mark.parametrize("by_url", [True, False], ids=["url", "directory"])
def test_repair_from_a_replica(manager: ReleaseManager, tree: Path, tmp_path: Path, lose: bool, by_url: bool) -> None:
    manager.ingest(mirror(tree))
    replica = tmp_path / "replica"
    with manager.store() as store:
        for info in [*store.list("data/"), *store.list(".cvmfs")]:
            file = replica / info.key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(store.get(info.key))
    damaged = {*catalogs_of(manager).values(), *objects_of(manager, b"sw/large"), *objects_of(manager, b"sw/one/a")}
    damage(manager, *damaged, lose=lose)
    before = manager.state()
    assert check(manager.environment, NAME, integrity=True).problems != []
    with served(replica) as url:
        place = url if by_url else str(replica)
        report = manager.server("check", "-i", "--json", "--repair-from", place).succeeded().document
    assert set(report["repaired"]) == {content_hash.key() for content_hash in damaged}
    assert manager.state().published == before.published
    assert manager.check().repaired == []


@pytest.mark.parametrize("compression", ["default", "none"])
def test_repair_from_the_files(local: ReleaseManager, tree: Path, tmp_path: Path, compression: str) -> None:
    local.configure(CVMFS_COMPRESSION_ALGORITHM=compression)
    local.ingest(mirror(tree, ""))
    damaged = {*objects_of(local, b"large"), *objects_of(local, b"one/a"), *objects_of(local, b"two/b")}
    damage(local, *damaged, lose=True)
    changed = shutil.copytree(tree, tmp_path / "changed")
    (changed / "one" / "a").write_text("changed since")
    (changed / "two" / "b").unlink()
    outcome = local.server("check", "--repair-from", changed)
    assert outcome.code == 1
    assert "2 problems found" in outcome.stdout
    assert outcome.stderr.count("Repaired: ") == len(damaged) - 2
    local.server("check", "--repair-from", tree).succeeded()
    local.check()


@pytest.mark.parametrize("from_files", [False, True])
def test_repair_takes_little_memory(
    local: ReleaseManager, tmp_path: Path, from_files: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cvmfs_publisher.operations.repair._AT_ONCE", 1 << 20)
    local.configure(CVMFS_USE_FILE_CHUNKING="false")
    source = make(tmp_path / "source", large=os.urandom(48 << 20))
    local.ingest(mirror(source, ""))
    replica = shutil.copytree(storage_of(local), tmp_path / "replica")
    lost = objects_of(local, b"large")
    damage(local, *lost, lose=True)
    tracemalloc.start()
    try:
        report = check(local.environment, NAME, repair_from=str(source if from_files else replica))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.repaired == [content_hash.key() for content_hash in lost]
    assert most < 24 << 20
    local.check()


def test_nothing_to_repair_from(local: ReleaseManager) -> None:
    local.refuses("check", "--repair-from", "/no/such/place", says=["neither a URL nor a directory"])


# Reflog


def reflog_of(manager: ReleaseManager) -> Reflog:
    with manager.store() as store:
        return Reflog.parse(store.get(REFLOG_KEY))


def names(reflog: Reflog) -> set[str]:
    return {str(name) for kind in ReferenceType for name, _ in reflog.references(kind)}


def test_a_reflog_that_others_have_written(local: ReleaseManager, tree: Path) -> None:
    """CernVM-FS's own garbage collection replaces it, and signs nothing."""
    local.ingest(mirror(tree))
    reflog = reflog_of(local)
    reflog.add(ContentHash(b"x" * 20, suffix=HashSuffix.HISTORY), 1)
    with local.store() as store:
        store.put(REFLOG_KEY, reflog.serialise())
    outcome = local.server("check").succeeded()
    assert "Warning: .cvmfsreflog is not the one that the manifest names" in outcome.stderr
    outcome = local.server("check", "-r").succeeded()
    assert "Brought reflog and manifest together." in outcome.stderr
    assert "Warning" not in outcome.stderr
    assert "The reflog needs no repair." in local.server("check", "-r").succeeded().stderr


@pytest.mark.parametrize("garbage", [None, b"", b"garbage"])
def test_a_lost_reflog_is_rebuilt(manager: ReleaseManager, tmp_path: Path, garbage: bytes | None) -> None:
    for number in range(3):
        manager.ingest(mirror(make(tmp_path / f"{number}", file=f"{number}")), tag="a" if number == 1 else None)
    before = reflog_of(manager)
    with manager.store() as store:
        store.delete(REFLOG_KEY) if garbage is None else store.put(REFLOG_KEY, garbage)
    assert manager.server("check").code == 1
    assert "Rebuilt the reflog" in manager.server("check", "-r").succeeded().stderr
    assert names(reflog_of(manager)) >= names(before)
    roots = dict(reflog_of(manager).references(ReferenceType.CATALOG))
    assert all(abs(roots[name] - added) <= 2 for name, added in before.references(ReferenceType.CATALOG))
    manager.check()


def test_whoever_needs_a_catalog_that_is_missing_names_its_directory(local: ReleaseManager, tmp_path: Path) -> None:
    for content in "12":
        source = make(tmp_path / content, **{"nested__.cvmfscatalog": "", "nested__file": content})
        local.ingest(mirror(source, "sw"))
    lost = catalogs_of(local)[b"sw/nested"].key()
    with local.store() as store:
        store.delete(lost)
    for command in (["diff"], ["list-catalogs"], ["ingest", "-d", "sw/nested/file"]):
        outcome = local.server(*command)
        assert outcome.code == 1
        assert f"The catalog of /sw/nested cannot be read: Object {lost} is missing in" in outcome.stderr
        assert "cvmfs_server check --repair-from URL" in outcome.stderr
