# SPDX-License-Identifier: GPL-3.0-or-later
"""Either publisher goes on where the other stopped, as often as one likes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from . import sources
from .native import NativeRepository
from .services import Bucket
from .test_native import KEEP_ALL, New
from .trees import Tree, below, differences, read_directory, read_mount
from .upstream import CONFIGURATION, Published, Repository, Upstream


def assert_shows(upstream: Upstream, repository: Published, expected: Tree) -> None:
    """Let CernVM-FS's own check and client look at the newest revision's directory `tree`."""
    upstream.check(repository)
    with upstream.mount(repository) as mount:
        assert mount.attribute("revision") == repository.manifest()["S"]
        assert not differences(expected, below(read_mount(mount.path), b"tree"))


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


TakeOver = Callable[[NativeRepository], AbstractContextManager[Repository]]


@pytest.fixture(params=["imported", "configured"])
def take_over(request: pytest.FixtureRequest, upstream: Upstream, bucket: Bucket) -> TakeOver:
    """Each way in which CernVM-FS's own publisher can take over a repository."""

    def take(repository: NativeRepository) -> AbstractContextManager[Repository]:
        way = upstream.imported if request.param == "imported" else upstream.configured
        return way(repository, bucket.storage_of(repository.name), repository.keys)

    return take


def keep_all(repository: Repository) -> None:
    with (CONFIGURATION / "repositories.d" / repository.name / "server.conf").open("a") as conf:
        conf.writelines(f"{key}={value}\n" for key, value in KEEP_ALL.items())


def tags_of(repository: Repository) -> dict[str, tuple[str, str]]:
    """Return hash and revision of every tag."""
    fields = [line.split() for line in repository.server("tag", "-l", "-x").splitlines()]
    return {name: (root_hash, revision) for name, root_hash, _, revision, *_ in fields}


def test_turn_by_turn(
    upstream: Upstream, new_native: New, bucket: Bucket, take_over: TakeOver, tmp_path: Path
) -> None:
    native = new_native(bucket, **KEEP_ALL)
    copy = sources.make(sources.awkward(1), tmp_path / "copy")
    native.mirror(copy, "tree", "-a", "native-2", "-m", "made by native")
    with take_over(native) as theirs:
        keep_all(theirs)
        assert tags_of(theirs)["native-2"] == (native.manifest()["C"], "2")

        with theirs.publish("-a", "upstream-3", "-m", "made by upstream") as mounted:
            edit(mounted / "tree")
        edit(copy)
        assert native.manifest()["S"] == "3"
        assert_shows(upstream, native, read_directory(copy))
        native.check()

        sources.make(sources.awkward(2), copy)
        assert native.mirror(copy, "tree", "-a", "native-4")["revision"] == 4
        assert_shows(upstream, native, read_directory(copy))
        native.check()

        theirs.check()
        with theirs.publish("-a", "upstream-5") as mounted:
            (mounted / "five").write_text("5")
        assert native.manifest()["S"] == "5"
        native.check()
        upstream.check(native)

        tags = tags_of(theirs)
        assert {name: tags[name][1] for name in tags if name[-2:-1] == "-" and name[-1:].isdigit()} == {
            "native-2": "2", "upstream-3": "3", "native-4": "4", "upstream-5": "5"
        }
        listed = native.document("tag", "-l")["tags"]
        assert {tag["name"]: (tag["root_hash"], str(tag["revision"])) for tag in listed} == tags
