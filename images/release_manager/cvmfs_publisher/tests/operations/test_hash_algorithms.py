# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories of each hash algorithm, and those that change it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from cvmfs_publisher.content import HashAlgorithm
from cvmfs_publisher.errors import ConfigurationError
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from operations.managers import NAME, ReleaseManager, make, mirror
from operations.reading import below, on_disk, published
from operations.test_interrupted import without_repository

ALGORITHMS = ["sha1", "rmd160", "shake128"]


def names_of_objects(manager: ReleaseManager) -> set[str]:
    with manager.store() as store:
        return {info.key.rpartition("/")[2] for info in store.list("data/")}


def of_algorithm(names: set[str], algorithm: HashAlgorithm) -> set[str]:
    """Return those of the objects' names that are of an algorithm."""
    if algorithm is HashAlgorithm.SHA1:
        return {name for name in names if "-" not in name}
    return {name for name in names if algorithm.suffix in name}


def new_repository(template: Path, base: Path, algorithm: str) -> ReleaseManager:
    manager = without_repository(template, base)
    mkfs(manager.environment, NAME, MkfsOptions(hash_algorithm=algorithm))
    manager.configure(CVMFS_HASH_ALGORITHM=algorithm)
    return manager


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small and chunked files, and nested catalogs."""
    return make(
        tmp_path / "tree", small="s", large=os.urandom(300_000), sub__small="t", **{"sub__.cvmfscatalog": ""}, empty=""
    )


@pytest.mark.parametrize("text", ALGORITHMS)
def test_everything_is_named_by_the_algorithm(template: Path, tmp_path: Path, tree: Path, text: str) -> None:
    algorithm = HashAlgorithm.from_setting(text)
    manager = new_repository(template, tmp_path / "manager", text)
    manager.ingest(mirror(tree), tag="one")
    manager.server("tag", "-a", "two").succeeded()
    manager.server("resign").succeeded()
    manager.server("resign", "-p").succeeded()
    assert below(published(manager).tree, b"sw") == on_disk(tree)
    manager.check()

    names = names_of_objects(manager)
    assert of_algorithm(names, algorithm) == names
    assert {name[-1] for name in names if name[-1].isupper()} == set("CHMPX")
    manifest = manager.manifest()
    for content_hash in (
        manifest.root_hash,
        manifest.history,
        manifest.certificate,
        manifest.meta_info,
        manifest.reflog_hash,
    ):
        assert content_hash is not None
        assert content_hash.algorithm is algorithm
    with manager.store() as store:
        for key in (MANIFEST_KEY, WHITELIST_KEY):
            letter = store.get(key)
            printed = letter.partition(b"\n--\n")[2].partition(b"\n")[0].decode()
            assert printed.endswith(algorithm.suffix)
            assert len(printed) == 40 + len(algorithm.suffix)


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(ALGORITHMS, 2)))
def test_change_of_the_algorithm(template: Path, tmp_path: Path, tree: Path, old: str, new: str) -> None:
    """As upstream: old content stays as it is, new content, changed catalogs and the like get the new algorithm."""
    manager = new_repository(template, tmp_path / "manager", old)
    manager.ingest(mirror(tree), mirror(tree, "other"))
    before = names_of_objects(manager)
    manager.configure(CVMFS_HASH_ALGORITHM=new)
    make(tree, small="changed", more="more")
    manager.ingest(mirror(tree))
    assert below(published(manager).tree, b"sw") == on_disk(tree)
    manager.check()
    added = names_of_objects(manager) - before
    assert of_algorithm(added, HashAlgorithm.from_setting(new)) == added
    # Two files, the root catalog, history and certificate: neither what is large nor the nested catalogs
    assert len(added) == 5

    manager.configure(CVMFS_HASH_ALGORITHM=old)
    make(tree, small="changed again", sub__new="new")
    manager.ingest(mirror(tree))
    assert below(published(manager).tree, b"sw") == on_disk(tree)
    manager.check()


def test_collection_with_several_algorithms(template: Path, tmp_path: Path, tree: Path) -> None:
    """What only revisions of before the change have goes, whatever it is named by; what is still used stays."""
    manager = new_repository(template, tmp_path / "manager", "sha1")
    manager.configure(CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    manager.ingest(mirror(tree))
    for number, algorithm in enumerate(("rmd160", "shake128", "shake128", "shake128")):
        manager.configure(CVMFS_HASH_ALGORITHM=algorithm)
        before = names_of_objects(manager)
        make(tree, small=f"{number}" * 100, large=os.urandom(300_000) if number == 1 else (tree / "large").read_bytes())
        manager.ingest(mirror(tree))
        if number == 1:
            old = before
    manager.server("gc", "-f", "-r", "0").succeeded()
    manager.check()
    left = names_of_objects(manager)
    gone = {name for name in old - left if name[-1] not in "HMX"}
    assert of_algorithm(gone, HashAlgorithm.SHA1)
    assert of_algorithm(gone, HashAlgorithm.RMD160)
    assert of_algorithm(left & old, HashAlgorithm.SHA1)  # the nested catalog, and what is in it
    assert below(published(manager).tree, b"sw") == on_disk(tree)


def test_without_the_setting_it_stays(template: Path, tmp_path: Path, tree: Path) -> None:
    manager = new_repository(template, tmp_path / "manager", "shake128")
    manager.configure(CVMFS_HASH_ALGORITHM="")
    manager.ingest(mirror(tree))
    assert of_algorithm(names_of_objects(manager), HashAlgorithm.SHAKE128) == names_of_objects(manager)


def test_unknown_algorithm(local: ReleaseManager, tree: Path) -> None:
    local.configure(CVMFS_HASH_ALGORITHM="md5")
    local.refuses("ingest", "--directory", tree, "-b", "sw", says=["CVMFS_HASH_ALGORITHM=md5", "rmd160 or shake128"])


def test_python_without_ripemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many an OpenSSL comes without it."""

    def refuse(name: str, *_: object, **__: object) -> None:
        raise ValueError(f"unsupported hash type {name}")

    monkeypatch.setattr("hashlib.new", refuse)
    with pytest.raises(ConfigurationError, match="does not offer RIPEMD-160"):
        HashAlgorithm.RMD160.digest(b"")
    assert HashAlgorithm.SHAKE128.digest(b"")


def test_rewritten_catalogs_are_named_by_the_new_algorithm(local: ReleaseManager, tree: Path) -> None:
    """And so is the tag database beside them."""
    local.ingest(mirror(tree), tag="one")
    local.configure(CVMFS_HASH_ALGORITHM="rmd160")
    local.server("fix-stats", "-f").succeeded()
    manifest = local.manifest()
    assert manifest.history is not None
    assert {manifest.root_hash.algorithm, manifest.history.algorithm} == {HashAlgorithm.RMD160}
    local.check()
