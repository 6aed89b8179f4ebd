# SPDX-License-Identifier: GPL-3.0-or-later
"""Nested catalogs: the same trees give the same catalogs, whoever publishes them, and each works on the other's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from .native import KEEP_ALL, Adopt, NativeRepository, NewNative
from .services import Directory
from .trees import below, differences, read_directory, read_mount
from .upstream import NewUpstream, Repository, TakeOver, Upstream

BALANCE = {
    "CVMFS_AUTOCATALOGS": "true",
    "CVMFS_AUTOCATALOGS_MAX_WEIGHT": "20",
    "CVMFS_AUTOCATALOGS_MIN_WEIGHT": "9",
}
RULES = """\
# every release, but not what they have in common
/sw/*
/sw/*/lib[0-9]
! */common
! /sw/v3*/lib*

 /grid-certificates\t
/none/*
/sw/v?/.hidden
/escaped\\*
"""
MARKERS = {".cvmfscatalog", ".cvmfsautocatalog"}


def files(directory: Path, numbers: Mapping[str, int]) -> None:
    """Make files in directories; those that are there stay, but for directories with too many."""
    for name, number in numbers.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        for path in (directory / name).glob("file*"):
            path.unlink()
        for index in range(number):
            (directory / name / f"file{index}").write_text(f"{name} {index}")


def catalogs(repository: Repository | NativeRepository, *options: str) -> list[str]:
    """Return the lines of list-catalogs that are about catalogs, in order."""
    lines = repository.server("list-catalogs", *options).splitlines()
    return sorted(line for line in lines if line.endswith("/") or "/" in line)


def markers(directory: Path) -> set[tuple[str, int]]:
    """Return where there are markers, and their permissions."""
    found = (path for path in directory.rglob(".cvmfs*catalog"))
    return {(str(path.relative_to(directory)), path.stat().st_mode) for path in found}


def test_rules(
    upstream: Upstream, new_upstream: NewUpstream, new_native: NewNative, served: Directory, tmp_path: Path
) -> None:
    theirs, ours = new_upstream(served), new_native(served, **KEEP_ALL)
    source = tmp_path / "source"
    steps: list[Mapping[str, int]] = [
        {"sw/v1/lib1": 2, "sw/v1/lib12": 1, "sw/common/lib1": 1, "sw/v3/lib1": 1, "grid-certificates": 1},
        {"sw/v2/lib1": 1, "sw/v2/.hidden": 1, "escaped*": 1, "escaped-not": 1, "other/sw/v1": 1},
        {"sw/v2/lib2": 1, "sw/v31/lib2": 1, "sw/.dot": 1},
    ]
    for number, step in enumerate(steps):
        files(source, step)
        if number != 1:
            (source / ".cvmfsdirtab").write_text(RULES + "/other/*\n" * number)
        with theirs.publish() as mounted:
            shutil.copytree(source, mounted, dirs_exist_ok=True)
        ours.mirror(source)
        assert catalogs(ours, "-x") == catalogs(theirs, "-x")
        with upstream.mount(theirs) as one, upstream.mount(ours) as other:
            assert markers(one.path) == markers(other.path)
        upstream.check(ours)
        ours.check()
    assert len(catalogs(ours, "-x")) > 8


def test_balance(
    upstream: Upstream, new_upstream: NewUpstream, new_native: NewNative, served: Directory, tmp_path: Path
) -> None:
    """Catalogs are divided and merged in the same way, when content comes and goes."""
    theirs, ours = new_upstream(served, **BALANCE), new_native(served, **KEEP_ALL, **BALANCE)
    source = tmp_path / "source"
    steps: list[Mapping[str, int]] = [
        {"": 25, "dir100": 100, "dir3": 3, "dir4": 4, "deep/a/b": 12, "deep/a/c": 8, "deep/d": 11},
        {"": 0, "dir/dir30": 30, "deep/d": 2},
        {"dir60/inner/more": 60, "dir60/inner": 10, "dir60": 9},
        {"dir60/inner/more": 1, "dir60/inner": 1, "dir60": 1},
        {"dir100": 1, "deep/a/b": 30, "deep/a/c": 31, "deep/a": 32},
    ]
    for step in steps:
        files(source, step)
        (source / "dir4" / ".cvmfscatalog").touch()
        with theirs.publish() as mounted:
            for name in step:  # their own markers stay where they are
                for path in (mounted / name).glob("file*"):
                    path.unlink()
            shutil.copytree(source, mounted, dirs_exist_ok=True)
        ours.mirror(source)
        assert catalogs(ours, "-x") == catalogs(theirs, "-x")
        with upstream.mount(theirs) as one, upstream.mount(ours) as other:
            assert markers(one.path) == markers(other.path)
        upstream.check(ours)
        ours.check()


def test_each_balances_what_the_other_did(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path
) -> None:
    ours = new_native(served, **KEEP_ALL, **BALANCE)
    files(tmp_path / "source", {"a": 30, "b": 12, "c/d": 15})
    ours.mirror(tmp_path / "source")
    theirs = take_over(ours, served, **BALANCE)
    with theirs.publish() as mounted:
        files(mounted, {"a": 2, "e/f": 40})
    upstream.check(ours)
    ours.check()
    assert catalogs(ours, "-x") == catalogs(theirs, "-x") == ["/", "/b", "/c/d", "/e/f"]
    files(tmp_path / "more", {"": 1})
    ours.publish(
        {"source": str(tmp_path / "more"), "base_dir": "g", "mode": "merge"},
        {"delete": "e"},
        *({"delete": f"b/file{number}"} for number in range(11)),
    )
    upstream.check(ours)
    ours.check()
    assert catalogs(ours, "-x") == ["/", "/c/d"]


def test_listing(new_native: NewNative, take_over: TakeOver, served: Directory, tmp_path: Path) -> None:
    ours = new_native(served, **KEEP_ALL)
    source = tmp_path / "source"
    files(source, {"a": 3, "a/b": 4, "a/b/c/d": 5, "e": 6})
    for name in ("a", "a/b", "a/b/c/d", "e"):
        (source / name / ".cvmfscatalog").touch()
    ours.mirror(source)
    theirs = take_over(ours, served)
    for options in (["-x"], ["-x", "-s", "-e", "-h"], ["-x", "-e"], ["-x", "-h"], [], ["-s"], ["-e", "-h"]):
        assert catalogs(ours, *options) == catalogs(theirs, *options)


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A tree with nested catalogs, hard links and several owners."""
    source = tmp_path / "source"
    files(source, {"a": 3, "a/b": 4, "c": 5})
    (source / "a" / ".cvmfscatalog").touch()
    (source / "large").write_bytes(os.urandom(20 << 20))
    os.link(source / "a/b/file0", source / "a/b/link")
    os.link(source / "large", source / "another")
    (source / "symbolic").symlink_to("a")
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.chown(path, number % 3, 10 + number % 2, follow_symlinks=False)
    return source


@pytest.mark.parametrize("who", ["native", "upstream"])
def test_owners(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, linked: Path, who: str
) -> None:
    ours = new_native(served, **KEEP_ALL)
    ours.mirror(linked)
    uid_map, gid_map = linked.parent / "uid.map", linked.parent / "gid.map"
    uid_map.write_text("# swap\n1 2\n2 1\n\n* 7\n")
    gid_map.write_text("10 20\n")
    who_does: Repository | NativeRepository = ours if who == "native" else take_over(ours, served)
    who_does.server("catalog-chown", "-u", str(uid_map), "-g", str(gid_map))
    uids, gids = {1: 2, 2: 1}, {10: 20}
    expected = {
        path: replace(node, uid=uids.get(node.uid, 7), gid=gids.get(node.gid, node.gid))
        for path, node in read_directory(linked).items()
    }
    upstream.assert_shows(ours, expected)
    ours.check()
    assert ours.manifest()["S"] == "3"


@pytest.mark.parametrize("who", ["native", "upstream"])
def test_hard_links(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, linked: Path, who: str
) -> None:
    ours = new_native(served, **KEEP_ALL)
    ours.mirror(linked)
    theirs = take_over(ours, served)
    who_does: Repository | NativeRepository = ours if who == "native" else theirs
    who_does.server("eliminate-hardlinks", "-f")
    tree = read_directory(linked)
    expected = {
        path: node if node.is_directory else replace(node, nlink=1, links=(path.rpartition(b"/")[2],))
        for path, node in tree.items()
    }
    upstream.assert_shows(ours, expected)
    ours.check()


def test_nothing_to_migrate(
    upstream: Upstream, new_upstream: NewUpstream, adopt: Adopt, served: Directory, linked: Path
) -> None:
    """What upstream writes is of the latest schema; counting it anew changes nothing."""
    theirs = new_upstream(served)
    with theirs.publish() as mounted:
        shutil.copytree(linked, mounted, dirs_exist_ok=True, symlinks=True)
    ours = adopt(theirs, served)
    assert ours.document("migrate")["changed"] is False
    ours.server("fix-stats", "-f")
    upstream.check(ours)
    ours.check()


def test_templates(
    upstream: Upstream, new_native: NewNative, take_over: TakeOver, served: Directory, linked: Path
) -> None:
    ours = new_native(served, **KEEP_ALL)
    ours.mirror(linked, "sw/1.0")
    tree = read_directory(linked)

    ours.server("transaction", "-T", "/sw/1.0=/sw/1.1")
    ours.server("publish", "-a", "copy")
    upstream.check(ours)
    ours.check()

    theirs = take_over(ours, served)
    theirs.server("transaction", "-T", "/sw/1.1=/sw/1.2")
    (theirs.mounted / "sw/1.2/new").write_text("new")
    theirs.server("publish")
    upstream.check(ours)
    ours.check()

    ours.server("transaction", "-T", "/sw/1.2=/sw/1.3")
    ours.server("publish")
    expected = {
        path: node if node.is_directory else replace(node, nlink=1, links=(path.rpartition(b"/")[2],))
        for path, node in tree.items()
    }
    with upstream.mount(ours) as mount:
        found = read_mount(mount.path)
    assert not differences(expected, below(found, b"sw/1.1"))
    for copy in (b"sw/1.2", b"sw/1.3"):
        seen = below(found, copy)
        assert seen.pop(b"new").size == 3
        seen[b""] = expected[b""]  # its time changed when the file came
        assert not differences(expected, seen)
    assert [line for line in catalogs(ours, "-x") if line.endswith("/a")] == [
        f"/sw/1.{number}/a" for number in range(4)
    ]


@pytest.mark.parametrize(
    ("template", "code"), [("/none=/sw", 22), ("/tree=/tree/inside", 22), ("/tree=/tree", 22), ("/tree=/none/x", 22)]
)
def test_templates_that_cannot_be_copied(
    new_native: NewNative, take_over: TakeOver, served: Directory, linked: Path, template: str, code: int
) -> None:
    """Exit codes are upstream's, and nothing is open afterwards."""
    ours = new_native(served, **KEEP_ALL)
    ours.mirror(linked, "tree")
    theirs = take_over(ours, served)
    theirs.server("transaction", "-T", template, expect=code)
    theirs.server("abort", "-f", expect=None)
    ours.server("transaction", "-T", template, expect=1 if "tree/" in template or template.endswith("=/tree") else code)
    ours.server("transaction")
    ours.server("abort", "-f")
