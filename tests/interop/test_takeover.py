# SPDX-License-Identifier: GPL-3.0-or-later
"""Either publisher goes on where the other stopped, as often as one likes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from . import sources
from .native import KEEP_ALL, NewNative
from .services import Bucket, Place
from .trees import below, differences, read_directory, read_mount
from .upstream import CommandFailed, TakeOver, Upstream


def edit(root: Path) -> None:
    """Change a tree of `sources.awkward` in many ways; what is made has the same times everywhere."""
    shutil.rmtree(root / "flip")
    (root / "flip").write_text("a file again")
    (root / "plain").write_text("changed by the other publisher")
    (root / "constant").unlink()
    (root / "modes" / "setuid").chmod(0o711)
    (root / "modes" / "sticky").chmod(0o755)
    os.chown(root / "modes" / "owned", 1, 2)
    (root / "names" / "-rf").rename(root / "moved")
    (root / "nested" / "two" / sources.MARKER.decode()).unlink()
    (root / "deep" / sources.MARKER.decode()).touch()
    shutil.rmtree(root / "nested or file")
    (root / "new").mkdir()
    (root / "new" / "large").write_bytes(sources.content(20_000_000, 99))
    (root / "new" / "link").symlink_to("large")
    touched = ("flip", "plain", "modes", "names", "nested/two", "deep", "deep/.cvmfscatalog", "new", "new/large", ".")
    for path in touched:
        os.utime(root / path, ns=(1_234_567_890_000_000_000, 1_234_567_890_000_000_000))
    os.utime(root / "new" / "link", ns=(0, 0), follow_symlinks=False)
    os.utime(root, ns=(0, 0))


@pytest.mark.parametrize(
    ("way", "storage"),
    [("imported", "bucket"), ("configured", "bucket"), ("imported", "served")],
    ids=["import", "configuration", "import-local"],
)
def test_turn_by_turn(
    request: pytest.FixtureRequest, upstream: Upstream, new_native: NewNative, tmp_path: Path, way: str, storage: str
) -> None:
    place: Place = request.getfixturevalue(storage)
    native = new_native(place, **KEEP_ALL)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    native.mirror(copy, "tree", "-a", "native-2", "-m", "made by native")
    take_over = getattr(upstream, way)
    with take_over(native, place.storage_of(native.name), native.keys) as theirs:
        theirs.configure(KEEP_ALL)
        assert theirs.tags()["native-2"] == (native.manifest()["C"], "2")

        with theirs.publish("-a", "upstream-3", "-m", "made by upstream") as mounted:
            edit(mounted / "tree")
        edit(copy)
        assert native.manifest()["S"] == "3"
        upstream.assert_shows(native, read_directory(copy), b"tree")
        native.check()

        sources.make(sources.awkward(2), copy)
        assert native.mirror(copy, "tree", "-a", "native-4")["revision"] == 4
        upstream.assert_shows(native, read_directory(copy), b"tree")
        native.check()

        theirs.check()
        with theirs.publish("-a", "upstream-5") as mounted:
            (mounted / "five").write_text("5")
        assert native.manifest()["S"] == "5"
        upstream.assert_shows(native, read_directory(copy), b"tree")
        native.check()

        tags = theirs.tags()
        assert {name: tags[name][1] for name in tags if name[-2:-1] == "-" and name[-1:].isdigit()} == {
            "native-2": "2",
            "upstream-3": "3",
            "native-4": "4",
            "upstream-5": "5",
        }
        listed = native.document("tag", "-l")["tags"]
        assert {tag["name"]: (tag["root_hash"], str(tag["revision"])) for tag in listed} == tags


def test_hard_links(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    """CernVM-FS's own publisher cannot change hard links on overlayfs, but resolve them."""
    native = new_native(bucket, **KEEP_ALL)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    native.mirror(copy, "tree")
    theirs = take_over(native, bucket)
    with pytest.raises(CommandFailed, match="eliminate-hardlinks"), theirs.publish() as mounted:
        (mounted / "tree" / "links" / "d").write_text("changed")
    theirs.server("abort", "-f")
    theirs.server("eliminate-hardlinks", "-f")
    with upstream.mount(native) as mount:
        found = below(read_mount(mount.path), b"tree")
        assert not differences(read_directory(copy), found, ignore=("nlink", "links"))
        assert found[b"links/a"].nlink == 1
    with theirs.publish() as mounted:
        (mounted / "tree" / "links" / "d").write_text("changed")
    upstream.check(native)
    native.check()
    native.mirror(copy, "tree")
    upstream.assert_shows(native, read_directory(copy), b"tree")


def test_garbage_collection(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    """What CernVM-FS's own garbage collection leaves is whole, and can be published again."""
    native = new_native(bucket, **KEEP_ALL, CVMFS_GARBAGE_COLLECTION="true", CVMFS_AUTO_TAG="false")
    copy = tmp_path / "copy"
    for number in (1, 2, 3):
        native.mirror(sources.make(sources.awkward(number), copy), "tree", *(["-a", "keep"] if number == 1 else []))
    collected = sources.Directory({b"gone": sources.File(5_000_000, 5), b"kept": sources.File(5, 5)})
    native.mirror(sources.make(collected, copy), "tree")
    sources.make(sources.awkward(3), copy)
    native.mirror(copy, "tree")
    theirs = take_over(native, bucket, CVMFS_GARBAGE_COLLECTION="true")
    assert "unreferenced revisions removed" in theirs.server("gc", "-r", "0", "-f")
    upstream.check(native, manifest_names_reflog=False)
    upstream.check(native, "-n", "keep", manifest_names_reflog=False)
    with upstream.mount(native) as mount:
        assert not differences(read_directory(copy), below(read_mount(mount.path), b"tree"))
    report = native.document("check", "-i")
    assert report["problems"] == []
    assert "the next publish brings them together" in report["warnings"][0]

    native.mirror(sources.make(collected, copy), "tree")
    upstream.assert_shows(native, read_directory(copy), b"tree")
    native.check()


def test_rollback_and_tags(
    upstream: Upstream, take_over: TakeOver, new_native: NewNative, bucket: Bucket, tmp_path: Path
) -> None:
    native = new_native(bucket, **KEEP_ALL)
    trees = {}
    for number in (1, 2):
        copy = sources.make(sources.awkward(number), tmp_path / "copy")
        trees[number] = read_directory(copy)
        native.mirror(copy, "tree", "-a", f"tag-{number}")
    native.server("tag", "-a", "added", "-m", "by native, to what is there")
    native.server("tag", "-r", "tag-2", "-f")
    upstream.check(native)
    theirs = take_over(native, bucket)
    assert {"tag-1", "added"} < theirs.tags().keys()
    assert "tag-2" not in theirs.tags()
    theirs.server("tag", "-a", "theirs", "-m", "by upstream")
    theirs.server("rollback", "-t", "tag-1", "-f")
    upstream.assert_shows(native, trees[1], b"tree")
    native.check()
    listed = {tag["name"] for tag in native.document("tag", "-l")["tags"]}
    assert listed == theirs.tags().keys()
    native.mirror(sources.make(sources.awkward(2), tmp_path / "copy"), "tree")
    upstream.assert_shows(native, trees[2], b"tree")
