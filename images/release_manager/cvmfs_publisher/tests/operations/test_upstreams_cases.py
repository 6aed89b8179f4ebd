# SPDX-License-Identifier: GPL-3.0-or-later
"""What CernVM-FS's own server test suite asks for and no other test here does; docs/compatibility.md has all of it."""

from __future__ import annotations

import json
import os
import random
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfs_publisher.repository.status import STATUS_KEY
from operations.managers import NAME, ReleaseManager, make
from operations.reading import below, on_disk, published
from operations.trees import pack

MARKER = ".cvmfscatalog"


def noise(size: int, seed: int = 0) -> bytes:
    """Return bytes that are cut into more than one chunk if `size` is more than 64 KiB."""
    return random.Random(seed).randbytes(size)  # noqa: S311


def mirror(manager: ReleaseManager, source: Path, base: str = "sw") -> frozenset[bytes]:
    """Mirror a directory, see that it is there and that nothing is wrong, and return where catalogs are."""
    manager.server("ingest", "--mirror", "--directory", source, "-b", base).succeeded()
    manager.check()
    found = published(manager)
    assert below(found.tree, base.encode()) == on_disk(source)
    return found.catalogs


# Chunked files (511 to 514, 594)


def test_chunked_files_come_and_go(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", large=noise(300_000), small="small")
    mirror(local, source)
    with (source / "large").open("r+b") as file:
        file.seek(150_000)
        file.write(b"something else in the middle")
    mirror(local, source)
    (source / "large").write_bytes(b"no longer large")
    mirror(local, source)
    (source / "small").write_bytes(noise(200_000, 1))
    mirror(local, source)
    (source / "small").unlink()
    mirror(local, source)
    assert b"sw/small" not in published(local).tree


def test_what_is_stored_is_not_written_again(local: ReleaseManager, tmp_path: Path) -> None:
    """Neither content nor catalogs are, nor anything else but the certificate."""

    def written() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in (tmp_path / "storage" / "data").glob("*/*[!X]")}

    source = make(tmp_path / "source", large=noise(2_000_000), small="small")
    mirror(local, source)
    before = written()
    with (source / "large").open("r+b") as file:
        file.seek(1_999_000)
        file.write(b"another end")
    mirror(local, source)
    assert before.items() <= written().items()


def test_chunks_move_with_their_catalog(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", outer__large=noise(300_000), outer__inner__large=noise(250_000, 1))
    assert mirror(local, source) == {b""}
    (source / "outer" / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/outer"}
    (source / "outer" / "inner" / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/outer", b"sw/outer/inner"}
    (source / "outer" / MARKER).unlink()
    assert mirror(local, source) == {b"", b"sw/outer/inner"}
    (source / "outer" / "inner" / MARKER).unlink()
    assert mirror(local, source) == {b""}


# Nested catalogs (526, 544, 547, 548, 631, 681)


def test_a_catalog_between_two_others(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", a__b__c__d__file="deep", a__b__c__other="less", a__first="first")
    (source / "a" / "b" / "c" / "d" / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/a/b/c/d"}
    (source / "a" / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/a", b"sw/a/b/c/d"}
    (source / "a" / "b" / MARKER).touch()
    (source / "a" / "b" / "c" / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/a", b"sw/a/b", b"sw/a/b/c", b"sw/a/b/c/d"}


@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_a_directory_with_catalogs_becomes_something_else(local: ReleaseManager, tmp_path: Path, kind: str) -> None:
    source = make(tmp_path / "source", a__b__file="deep", other="other")
    for directory in ("a", "a/b"):
        (source / directory / MARKER).touch()
    assert mirror(local, source) == {b"", b"sw/a", b"sw/a/b"}
    shutil.move(source / "a", tmp_path / "kept")
    if kind == "file":
        (source / "a").write_text("a file")
    else:
        (source / "a").symlink_to("other")
    assert mirror(local, source) == {b""}
    (source / "a").unlink()
    shutil.move(tmp_path / "kept", source / "a")
    assert mirror(local, source) == {b"", b"sw/a", b"sw/a/b"}


def test_a_renamed_directory_keeps_its_catalogs(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", old__inner__file="x", old__file=noise(200_000))
    for directory in ("old", "old/inner"):
        (source / directory / MARKER).touch()
    mirror(local, source)
    (source / "old").rename(source / "new")
    assert mirror(local, source) == {b"", b"sw/new", b"sw/new/inner"}


def test_a_tree_of_catalogs_is_replaced_in_one_publish(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", a__b__file="deep", a__c__file="less")
    for directory in ("a", "a/b", "a/c"):
        (source / directory / MARKER).touch()
    mirror(local, source)
    (source / "a" / "c" / MARKER).unlink()
    make(source, a__b__file="deeper", a__d__e__file="new")
    (source / "a" / "d" / "e" / MARKER).touch()
    local.server("ingest", "-d", "sw", "--directory", source, "-b", "sw").succeeded()
    local.check()
    found = published(local)
    assert below(found.tree, b"sw") == on_disk(source)
    assert found.catalogs == {b"", b"sw/a", b"sw/a/b", b"sw/a/d/e"}


MARKERS: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "directory": Path.mkdir,
    "symbolic link": lambda path: path.symlink_to("file"),
}


@pytest.mark.parametrize("kind", MARKERS)
def test_a_marker_is_a_regular_file(local: ReleaseManager, tmp_path: Path, kind: str) -> None:
    source = make(tmp_path / "source", nested__file="x")
    marker = source / "nested" / MARKER
    MARKERS[kind](marker)
    arguments = ["--directory", source, "-b", "sw"]
    local.refuses("ingest", *arguments, says=[f"/sw/nested/{MARKER} is not a regular file"])
    marker.rmdir() if kind == "directory" else marker.unlink()
    marker.touch()
    assert mirror(local, source) == {b"", b"sw/nested"}


def test_rules_stay_within_the_repository(local: ReleaseManager, tmp_path: Path) -> None:
    """Neither files nor symbolic links, wherever they lead, become nested catalogs, or are followed."""
    outside = make(tmp_path / "outside", nested__file="")
    source = make(
        tmp_path / "source", **{".cvmfsdirtab": "/a/*\n/b/*/nested\n", "a__d__f": "", "a__file": "", "c__nested__f": ""}
    )
    (source / "b").mkdir()
    (source / "a" / "link").symlink_to("d")
    (source / "a" / "outside").symlink_to(outside)
    (source / "b" / "link").symlink_to("../c")
    outcome = local.server("ingest", "--mirror", "--directory", source, "-b", "/").succeeded()
    assert "Warning: There is no directory that /b/*/nested in /.cvmfsdirtab means" in outcome.stderr
    assert published(local).catalogs == {b"", b"a/d"}
    assert list((outside / "nested").iterdir()) == [outside / "nested" / "file"]


# Files (645, 649, 537, 539)


def test_zeros_and_holes(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", zeros=bytes(1_000_000), empty=b"")
    with (source / "hole").open("wb") as file:
        file.truncate(5_000_000)
    mirror(local, source)


def test_files_that_nobody_may_read(local: ReleaseManager, tmp_path: Path) -> None:
    """Where the publisher may read them, their modes are kept."""
    source = make(tmp_path / "source", nobody="x", directory__file="y", executable="z")
    for name in ("nobody", "directory/file", "directory"):
        (source / name).chmod(0)
    (source / "executable").chmod(0o111)
    mirror(local, source)


def test_storage_behind_a_symbolic_link(local: ReleaseManager, tmp_path: Path, source: Path) -> None:
    for name in ("storage", "manager/spool"):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        directory.rename(tmp_path / "elsewhere" if name == "storage" else tmp_path / "spool")
        directory.symlink_to(tmp_path / "elsewhere" if name == "storage" else tmp_path / "spool")
    mirror(local, source)
    local.server("transaction").succeeded()
    local.server("abort", "-f").succeeded()


def test_a_directory_with_many_files(local: ReleaseManager, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5000):
        (source / f"{number:05}").write_bytes(b"%d" % (number % 7))
    mirror(local, source)
    for number in range(0, 5000, 2):
        (source / f"{number:05}").unlink()
    mirror(local, source)


# Archives (652, 656 to 658, 667)


@pytest.mark.parametrize(
    "base", ["/", "a", "/a", "a/", "a//b", "a/b/c", "///a///", f"/cvmfs/{NAME}", f"/cvmfs/{NAME}/a/b"]
)
def test_base_directories_of_all_kinds(local: ReleaseManager, source: Path, tmp_path: Path, base: str) -> None:
    archive = pack(source, tmp_path / "source.tar")
    local.server("ingest", "-k", "-t", archive, "-b", base).succeeded()
    local.check()
    found = published(local).tree
    path = b"/".join(part.encode() for part in base.removeprefix(f"/cvmfs/{NAME}").split("/") if part)
    expected = on_disk(source)
    assert {name: found[b"/".join(filter(None, (path, name)))] for name in expected} == expected


def test_an_archive_and_deletions(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    archive = pack(source, tmp_path / "source.tar")
    local.server("ingest", "-k", "-t", archive, "-b", "a/b").succeeded()
    revision = published(local).revision
    local.server("ingest", "-k", "-t", archive, "-b", "c", "-d", "a/b/lib", "-d", "a/b/README").succeeded()
    found = published(local)
    assert found.revision == revision + 1
    assert below(found.tree, b"c") == on_disk(source)
    assert {path for path in found.tree if path.startswith(b"a/b/")} == {b"a/b/bin", b"a/b/bin/run"}

    # A base directory, and what takes its place in the same publish
    local.server("ingest", "-k", "-t", archive, "-b", "a/b", "-d", "a", "-d", "c").succeeded()
    found = published(local)
    assert below(found.tree, b"a/b") == on_disk(source)
    assert b"c" not in found.tree
    local.server("ingest", "-f", f"/cvmfs/{NAME}/a").succeeded()
    assert b"a" not in published(local).tree
    local.check()


def test_a_path_with_a_colon_is_deleted(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{"a:b__file": "x", "c": "y"})
    local.server("ingest", "--directory", source, "-b", "sw").succeeded()
    local.server("ingest", "-d", "sw/a:b").succeeded()
    assert below(published(local).tree, b"sw").keys() == {b"", b"c"}


def test_archives_with_markers(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    (source / "lib" / MARKER).touch()
    archive = pack(source, tmp_path / "source.tar")
    local.server("ingest", "-k", "-c", "-t", archive, "-b", "sw/1").succeeded()
    assert published(local).catalogs == {b"", b"sw/1", b"sw/1/lib"}
    local.server("ingest", "-k", "-c", "-t", archive, "-b", "sw/1").succeeded()  # once more
    assert published(local).catalogs == {b"", b"sw/1", b"sw/1/lib"}
    local.server("ingest", "-d", f"sw/1/lib/{MARKER}").succeeded()
    assert published(local).catalogs == {b"", b"sw/1"}
    local.check()


def test_an_empty_archive_makes_a_nested_catalog(local: ReleaseManager, tmp_path: Path) -> None:
    tarfile.open(tmp_path / "empty.tar", "w").close()
    local.server("ingest", "-c", "-t", tmp_path / "empty.tar", "-b", "layer").succeeded()
    assert published(local).catalogs == {b"", b"layer"}


def test_deleted_trees_take_their_catalogs_along(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    (source / "lib" / MARKER).touch()
    archive = pack(source, tmp_path / "source.tar")
    local.server("ingest", "-k", "-c", "-t", archive, "-b", "one").succeeded()
    local.server("ingest", "-k", "-t", archive, "-b", "two", "-d", "one").succeeded()
    assert published(local).catalogs == {b"", b"two/lib"}
    outcome = local.server("ingest", "-d", "two/none", "-d", "two/lib", "-d", "two/README").succeeded()
    assert "/two/none was to be deleted, but is not in the repository" in outcome.stderr
    found = published(local)
    assert found.catalogs == {b""}
    assert below(found.tree, b"two").keys() == {b"", b"bin", b"bin/run"}
    local.check()


def test_archives_into_nested_catalogs(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    deep = make(tmp_path / "deep", a__b__c__file="x")
    for directory in ("a", "a/b", "a/b/c"):
        (deep / directory / MARKER).touch()
    mirror(local, deep)
    archive = pack(source, tmp_path / "source.tar")
    for base in ("sw/a/b/c/d", "sw/a/new", "sw/a/b"):
        local.server("ingest", "-k", "-t", archive, "-b", base).succeeded()
        local.check()
        found = published(local)
        assert below(found.tree, base.encode())[b"lib/data"].content == on_disk(source)[b"lib/data"].content
        assert found.catalogs == {b"", b"sw/a", b"sw/a/b", b"sw/a/b/c"}


def test_an_archive_replaces_files_by_symlinks_and_back(local: ReleaseManager, tmp_path: Path) -> None:
    """Merging an archive, as extracting it would, replaces what has another type."""
    first = make(tmp_path / "first", a="file", b="target")
    second = make(tmp_path / "second", b="target")
    (second / "a").symlink_to("b")
    for source in (first, second, first):
        local.server("ingest", "-k", "-t", pack(source, tmp_path / "x.tar"), "-b", "sw").succeeded()
        assert below(published(local).tree, b"sw") == on_disk(source)
    local.check()


# Aborts and what is left of them (650, 534)


def test_a_transaction_can_be_aborted_and_begun_again(local: ReleaseManager, source: Path) -> None:
    before = published(local)
    for _ in range(3):
        local.server("transaction").succeeded()
        local.server("abort", "-f").succeeded()
    assert published(local) == before
    assert local.server("abort", "-f").code == 1
    mirror(local, source)


# Garbage collection (557 to 560, 573 to 575, 603, 651, 661)


def objects(manager: ReleaseManager) -> set[str]:
    """Return what is stored, without databases of tags, of which only the newest is kept."""
    with manager.store() as store:
        return {found.key for found in store.list("data/") if "/txn" not in found.key and found.key[-1] != "H"}


@pytest.fixture
def collectable(local: ReleaseManager, tmp_path: Path) -> ReleaseManager:
    """A repository with revisions 2 to 5, each with another large file in a nested catalog; the second is tagged."""
    local.configure(CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    for revision in range(2, 6):
        source = make(tmp_path / str(revision), **{f"nested__{revision}": noise(100_000, revision)})
        (source / "nested" / MARKER).touch()
        options = ["-a", "second"] if revision == 2 else []
        local.server("ingest", "--mirror", "--directory", source, "-b", "sw", *options).succeeded()
    return local


def test_collection_keeps_what_is_asked_for(collectable: ReleaseManager, tmp_path: Path) -> None:
    everything = objects(collectable)
    assert "0 revisions and 0 objects deleted" in collectable.server("gc", "-f").succeeded().stdout  # of three days
    collectable.server("gc", "-f", "-t", "yesterday").succeeded()
    collectable.server("gc", "-f", "-r", "3").succeeded()
    assert objects(collectable) == everything

    planned = collectable.server("gc", "-d", "-l", "-r", "0").succeeded().stdout
    assert objects(collectable) == everything
    log = tmp_path / "deleted"
    done = collectable.server("gc", "-l", "-L", log, "-f", "-r", "0").succeeded().stdout
    swept = [line for line in done.splitlines() if line.startswith("Sweep: ")]
    assert swept
    assert swept == [line for line in planned.splitlines() if line.startswith("Sweep: ")]
    left = objects(collectable)
    assert len(everything - left) == sum(not line.endswith("H") for line in swept)
    logged = log.read_text()
    assert all(line.removeprefix("Sweep: ") in logged for line in swept)

    # The tag keeps its revision, with nested catalogs and chunks, and the newest is whole
    collectable.check()
    assert collectable.server("check", "-i", "-t", "second").succeeded()
    assert collectable.server("tag", "-r", "second", "-f").succeeded()
    collectable.server("gc", "-a", "-f", "-r", "0").succeeded()
    assert objects(collectable) < left
    collectable.check()


def test_collection_has_to_be_allowed(collectable: ReleaseManager) -> None:
    everything = objects(collectable)
    collectable.configure(CVMFS_GARBAGE_COLLECTION="false")
    refused = collectable.server("gc", "-f", "-r", "0")
    assert refused.code == 1
    assert "CVMFS_GARBAGE_COLLECTION" in refused.stderr
    assert "There are no garbage-collectable repositories" in collectable.run("gc", "-a", "-f").stderr
    assert objects(collectable) == everything


def test_a_revision_has_to_allow_collection(collectable: ReleaseManager, tmp_path: Path) -> None:
    """The setting alone does not make garbage of what was published to be kept, nor does it keep it for ever."""
    everything = objects(collectable)
    for setting, command in (("false", ["ingest", "-d", "sw/nested/5"]), ("true", ["gc", "-f", "-r", "0"])):
        collectable.configure(CVMFS_GARBAGE_COLLECTION=setting)
        outcome = collectable.server(*command)
    assert outcome.code == 1
    assert "is not enabled" in outcome.stderr
    assert objects(collectable) >= everything
    collectable.server("ingest", "--mirror", "--directory", tmp_path / "3", "-b", "sw").succeeded()
    collectable.server("gc", "-f", "-r", "0").succeeded()
    assert not objects(collectable) >= everything
    collectable.check()


def test_an_idle_repository_can_be_collected(collectable: ReleaseManager, tmp_path: Path) -> None:
    """Although all of it is older than what is to be kept, the newest revision stays, and the one before, and tags."""
    everything = objects(collectable)
    time.sleep(1.1)
    collectable.server("gc", "-f", "-t", "now").succeeded()
    assert objects(collectable) < everything
    collectable.check()
    assert below(published(collectable).tree, b"sw") == on_disk(tmp_path / "5")
    collectable.server("check", "-i", "-t", "second").succeeded()


@pytest.mark.parametrize("automatic", [True, False])
def test_what_is_published_again_is_not_collected(collectable: ReleaseManager, tmp_path: Path, automatic: bool) -> None:
    """An object that only an old revision had, and that the newest has again, stays."""
    if automatic:
        collectable.configure(CVMFS_AUTO_GC="true", CVMFS_AUTO_GC_TIMESPAN="now", CVMFS_AUTO_GC_LAPSE="tomorrow")
        time.sleep(1.1)
    everything = objects(collectable)
    collectable.server("ingest", "--mirror", "--directory", tmp_path / "3", "-b", "sw").succeeded()
    if not automatic:
        collectable.server("gc", "-f", "-r", "0").succeeded()
    assert not objects(collectable) >= everything
    collectable.check()
    mirror(collectable, tmp_path / "4")


def test_collection_waits_for_nobody(collectable: ReleaseManager) -> None:
    """An open transaction keeps the lease, and is refused rather than disturbed."""
    collectable.server("transaction").succeeded()
    assert collectable.server("gc", "-f", "-r", "0").code == 1
    collectable.server("abort", "-f").succeeded()
    collectable.server("gc", "-f", "-r", "0").succeeded()
    collectable.check()


# All repositories (688)


def test_all_repositories_are_checked(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    mirror(local, source)
    local.configure(CVMFS_CHECK_ALL_MIN_DAYS="0")
    assert "no problems found" in local.run("check", "-a").succeeded().stdout
    another = tmp_path / "manager" / "etc" / "repositories.d" / "another.example.org"
    shutil.copytree(local.server_conf.parent, another)
    conf = another / "server.conf"
    conf.write_text(conf.read_text().replace(NAME, another.name).replace(f"{tmp_path}/storage", f"{tmp_path}/nowhere"))
    outcome = local.run("check", "-a", "-i")
    assert outcome.code == 1
    assert "another.example.org" in outcome.stderr
    assert outcome.stdout.count("no problems found") == 1
    shutil.rmtree(another)
    shutil.rmtree(local.server_conf.parent)
    assert "No repositories are configured" in local.run("check", "-a").stderr


def test_a_repository_that_was_found_whole_lately_is_spared(local: ReleaseManager, source: Path) -> None:
    mirror(local, source)
    local.server("check").succeeded()  # on its own, it is noted only where that is done already
    assert "no problems found" in local.run("check", "-a").succeeded().stdout
    with local.store() as store:
        assert json.loads(store.get(STATUS_KEY))["check_status"] == "succeeded"
    spared = local.run("check", "-a").succeeded().stdout
    assert "Found whole on" in spared
    assert "Checked" not in spared
    local.configure(CVMFS_CHECK_ALL_MIN_DAYS="0")
    assert "no problems found" in local.run("check", "-a").succeeded().stdout
    local.configure(CVMFS_CHECK_ALL_MIN_DAYS="3")
    with local.store() as store:
        (key, *_) = (info.key for info in store.list("data/") if info.key[-1] not in "CHMX")
        content = store.get(key)
        store.delete(key)
        store.put(STATUS_KEY, b'{"last_check": "Mon Nov 23 15:58:09 UTC 2020", "check_status": "succeeded"}')
        assert local.run("check", "-a").code == 1
        assert local.run("check", "-a").code == 1  # again: it was not found whole
        store.put(key, content)
        local.server("check").succeeded()
    assert "Found whole on" in local.run("check", "-a").succeeded().stdout
