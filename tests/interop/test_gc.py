# SPDX-License-Identifier: GPL-3.0-or-later
"""Garbage collection: either engine deletes what the other would, and goes on with what the other has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from cvmfs_publisher.storage import open_store

from . import sources
from .native import KEEP_ALL, Adopt, NativeRepository, NewNative
from .services import Bucket, Place
from .trees import Tree, below, differences, read_directory, read_mount
from .upstream import NewUpstream, Published, Repository, TakeOver, Upstream

COLLECTABLE = {"CVMFS_GARBAGE_COLLECTION": "true", "CVMFS_AUTO_TAG": "false"}


def file(size: int, seed: int = 0) -> sources.File:
    """Return a file that looks changed when it is."""
    return sources.File(size, seed, mtime=(1_700_000_000 + seed) * 10**9)


def tree_of(number: int) -> sources.Directory:
    """Return a tree of which the next one has only a part: nested catalogs, chunks, and content in several places."""
    shared = file(3000, number // 2)
    return sources.Directory(
        {
            b"large": file(20_000_000, number),
            b"shared": shared,
            b"nested": sources.Directory(
                {
                    sources.MARKER: file(0),
                    b"again": shared,
                    b"own": file(5000, 100 + number),
                    b"deep": sources.Directory({sources.MARKER: file(0), b"kept": file(7), b"deep": file(9, number)}),
                }
            ),
        }
    )


def with_history(native: NativeRepository, copy: Path) -> dict[str, Tree]:
    """Publish some revisions, one of them with a tag; return what it and the newest one show."""
    trees = {}
    for number in range(5):
        sources.make(tree_of(number), copy)
        native.mirror(copy, "tree", *(["-a", "keep"] if number == 1 else []))
        trees["keep" if number == 1 else "trunk"] = read_directory(copy)
    return trees


def deleted(output: str) -> set[str]:
    """Return the objects that the engines name when they are to list what they delete."""
    names = (line.partition("weep: ")[2].split() for line in output.splitlines() if "weep: " in line)
    return {words[0] for words in names if words}


def shows(upstream: Upstream, repository: Published, trees: dict[str, Tree]) -> None:
    """Assert that the newest revision and the tag are whole, to upstream's check and to its client."""
    for tag, tree in trees.items():
        upstream.check(repository, *(["-n", tag] if tag != "trunk" else []))
        with upstream.mount(repository, f"CVMFS_REPOSITORY_TAG={tag}\n" if tag != "trunk" else "") as mount:
            assert not differences(tree, below(read_mount(mount.path), b"tree"))


def their_dry_run(theirs: Repository, *options: str) -> set[str]:
    theirs.knows_reflog()
    return deleted(theirs.server("gc", *options, "-d", "-l", "-f"))


def our_dry_run(native: NativeRepository, *options: str) -> set[str]:
    return deleted(native.server("gc", *options, "-d", "-l", "-f"))


@pytest.mark.parametrize("revisions", ["0", "2"])
def test_native_collects(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, place: Place, tmp_path: Path, revisions: str
) -> None:
    native = new_native(place, **KEEP_ALL, **COLLECTABLE)
    trees = with_history(native, tmp_path / "copy")
    theirs = take_over(native, place, **COLLECTABLE)
    expected = their_dry_run(theirs, "-r", revisions)
    assert our_dry_run(native, "-r", revisions) == expected
    report = native.document("gc", "-r", revisions, "-f")
    assert report["condemned_objects"] == len(expected) > 10
    shows(upstream, native, trees)
    native.check()
    assert their_dry_run(theirs, "-r", revisions) == set()
    theirs.server("gc", "-r", revisions, "-f")
    assert native.document("check", "-i")["problems"] == []
    shows_after_their_collection(upstream, native, trees)

    theirs.check()
    with theirs.publish() as mounted:
        (mounted / "theirs").write_text("theirs")
    upstream.check(native)
    native.check()


def shows_after_their_collection(upstream: Upstream, native: NativeRepository, trees: dict[str, Tree]) -> None:
    upstream.check(native, manifest_names_reflog=False)
    with upstream.mount(native) as mount:
        assert not differences(trees["trunk"], below(read_mount(mount.path), b"tree"))


def test_upstream_collects(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, place: Place, tmp_path: Path
) -> None:
    """Its reflog is not the one that the manifest names, which is no problem, and heals."""
    native = new_native(place, **KEEP_ALL, **COLLECTABLE)
    trees = with_history(native, tmp_path / "copy")
    theirs = take_over(native, place, **COLLECTABLE)
    expected = our_dry_run(native, "-r", "0")
    assert deleted(theirs.server("gc", "-r", "0", "-f", "-l")) == expected
    report = native.document("check", "-i")
    assert report["problems"] == []
    assert len(report["warnings"]) == 1
    assert our_dry_run(native, "-r", "0") == set()
    native.server("gc", "-r", "0", "-f")
    assert native.document("check", "-i")["warnings"] == []
    shows(upstream, native, trees)
    sources.make(tree_of(9), tmp_path / "copy")
    native.mirror(tmp_path / "copy", "tree")
    upstream.assert_shows(native, read_directory(tmp_path / "copy"), b"tree")


def test_native_collects_what_upstream_made(
    upstream: Upstream, new_upstream: NewUpstream, adopt: Adopt, place: Place, tmp_path: Path
) -> None:
    theirs = new_upstream(place, "-z", "-g", **COLLECTABLE)
    for number in range(4):
        with theirs.publish(*(["-a", "keep"] if number == 1 else [])) as mounted:
            sources.make(tree_of(number), mounted / "tree")
    native = adopt(theirs, place)
    expected = deleted(theirs.server("gc", "-r", "1", "-d", "-l", "-f"))
    assert our_dry_run(native, "-r", "1") == expected
    assert native.document("gc", "-r", "1", "-f")["condemned_objects"] == len(expected) > 5
    native.check()
    for tag in ("trunk", "keep"):
        upstream.check(native, "-n", tag)
    theirs.check()
    with theirs.publish() as mounted:
        sources.make(tree_of(0), mounted / "tree")
    upstream.assert_shows(native, read_directory(sources.make(tree_of(0), tmp_path / "copy")), b"tree")
    native.check()


def test_a_replica_follows(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    native = new_native(bucket, **KEEP_ALL, **COLLECTABLE)
    trees = with_history(native, tmp_path / "copy")
    with upstream.replica(native, bucket) as replica:
        native.server("gc", "-r", "0", "-f")
        upstream.snapshot(replica)
        sources.make(tree_of(9), tmp_path / "copy")
        native.mirror(tmp_path / "copy", "tree")
        native.server("gc", "-r", "0", "-f", "--orphans", "--orphans-before", "1 hour")
        upstream.snapshot(replica)
        trees["trunk"] = read_directory(tmp_path / "copy")
        for repository in (native, replica):
            upstream.check(repository, manifest_names_reflog=False)
            with upstream.mount(repository) as mount:
                assert not differences(trees["trunk"], below(read_mount(mount.path), b"tree"))
    native.check()


def test_a_rebuilt_reflog(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, place: Place, tmp_path: Path
) -> None:
    """Upstream collects by a reflog that native has rebuilt."""
    native = new_native(place, **KEEP_ALL, **COLLECTABLE)
    trees = with_history(native, tmp_path / "copy")
    expected = our_dry_run(native, "-r", "0")
    with open_store(place.storage_of(native.name)) as store:
        store.delete(".cvmfsreflog")
    assert "Rebuilt the reflog" in native.server("check", "-r")
    upstream.check(native)
    theirs = take_over(native, place, **COLLECTABLE)
    assert {name for name in their_dry_run(theirs, "-r", "0") if name[-1] not in "HMX"} == {
        name for name in expected if name[-1] not in "HMX"
    }
    theirs.server("gc", "-r", "0", "-f")
    shows_after_their_collection(upstream, native, trees)
