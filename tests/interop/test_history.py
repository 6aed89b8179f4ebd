# SPDX-License-Identifier: GPL-3.0-or-later
"""Tags, rollbacks, differences, branches and instant snapshots: either engine goes on where the other stopped."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from .native import NativeRepository, QuickRepository
from .services import Directory
from .trees import differences, read_mount
from .upstream import CONFIGURATION, CommandFailed, Repository, Upstream

New = Callable[..., QuickRepository]


def natively(repository: Repository, place: Directory, directory: Path, **settings: str) -> QuickRepository:
    """Let the native publisher work on a repository of CernVM-FS's own, too."""
    native = QuickRepository.at(repository.name, repository.url, directory)
    native.configure({"CVMFS_UPSTREAM_STORAGE": place.storage_of(repository.name), **settings})
    native.keys.mkdir()
    for kind in ("pub", "key", "crt"):
        name = f"{repository.name}.{kind}"
        (native.keys / name).write_bytes((CONFIGURATION / "keys" / name).read_bytes())
    return native


def write(root: Path, **files: str | None) -> None:
    """Write, or remove, files; a double underscore in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def assert_same_lists(ours: QuickRepository, theirs: Repository) -> None:
    """Both print the same tags and branches, for people and for programs."""
    for options in (["-l"], ["-l", "-x"], ["-b"], ["-b", "-x"]):
        assert ours.server("tag", *options) == theirs.server("tag", *options), options
    for name in [line.split()[0] for line in ours.server("tag", "-l", "-x").splitlines()]:
        for options in (["-i", name], ["-i", name, "-x"]):
            assert ours.server("tag", *options) == theirs.server("tag", *options)


def assert_same_differences(ours: QuickRepository, theirs: Repository, old: str, new: str) -> None:
    for options in ([], ["-m"], ["-h"], ["-m", "-h", "-i"], ["-i"]):
        for first, second in ((old, new), (new, old)):
            arguments = ["-s", first, "-d", second, *options]
            assert ours.server("diff", *arguments) == theirs.server("diff", *arguments), arguments


def test_tags_and_rollbacks_in_turn(
    upstream: Upstream, served: Directory, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    with upstream.new_repository(new_name("history"), served) as theirs:
        ours = natively(theirs, served, tmp_path / "native")
        assert_same_lists(ours, theirs)
        with theirs.publish("-a", "one", "-m", "first words") as root:
            write(root, file="one", sub__file="one", sub__gone="x", nest__deep__file="one")
            (root / "nest" / "deep" / ".cvmfscatalog").touch()
            (root / "sub" / "link").symlink_to("file")
        with theirs.publish("-a", "two") as root:
            write(root, file="two is longer", sub__gone=None, sub__new="new", nest__deep__file="two", other__file="x")
            (root / "sub" / "link").unlink()
            (root / "sub" / "link").symlink_to("new")
            (root / "other" / ".cvmfscatalog").touch()
            (root / "other").chmod(0o700)
        assert_same_lists(ours, theirs)
        assert_same_differences(ours, theirs, "one", "two")
        assert_same_differences(ours, theirs, "@" + theirs.manifest()["C"], "one")

        # Ours goes back, theirs goes on
        ours.server("rollback", "-f", "-t", "one")
        upstream.check(theirs)
        theirs.check()
        assert_same_lists(ours, theirs)
        with theirs.publish("-a", "three") as root:
            assert (root / "file").read_text() == "one"
            assert (root / "sub" / "gone").exists()
            write(root, file="three")
        assert_same_lists(ours, theirs)
        assert_same_differences(ours, theirs, "trunk-previous", "trunk")

        # Theirs goes back, ours goes on
        theirs.server("rollback", "-f")
        assert_same_lists(ours, theirs)
        source = tmp_path / "source"
        write(source, file="four")
        ours.publish({"source": str(source), "base_dir": "/", "mode": "merge"}, options=("-a", "four"))
        theirs.check()
        upstream.check(theirs)
        assert_same_lists(ours, theirs)
        with upstream.mount(theirs) as mount:
            assert (mount.path / "file").read_text() == "four"
            assert (mount.path / "sub" / "gone").exists()

        # Tags by either
        one = ours.server("tag", "-i", "one", "-x").split()[1]
        ours.server("tag", "-a", "by-us", "-m", "our words", "-h", one)
        theirs.check()
        theirs.server("tag", "-a", "by-them", "-h", one)
        assert_same_lists(ours, theirs)
        ours.server("tag", "-f", "-r", "by-them one")
        theirs.check()
        theirs.server("tag", "-f", "-r", "by-us")
        assert_same_lists(ours, theirs)
        upstream.check(theirs)
        ours.check()


def test_branches_in_turn(
    upstream: Upstream, served: Directory, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    with upstream.new_repository(new_name("branches"), served, "-g") as theirs:
        ours = natively(theirs, served, tmp_path / "native", CVMFS_AUTO_TAG="false")
        for tag in ("one", "two"):
            with theirs.publish("-a", tag) as root:
                write(root, file=tag)
        source = tmp_path / "source"

        theirs.server("checkout", "-b", "theirs", "-t", "one")
        with theirs.publish("-a", "their-fix") as root:
            assert (root / "file").read_text() == "one"
            write(root, fixed="by them")
        ours.server("checkout", "-b", "ours", "-t", "one")
        write(source, fixed="by us")
        merge = {"source": str(source), "base_dir": "/", "mode": "merge"}
        ours.publish(merge, options=("-a", "our-fix"))
        theirs.check()
        assert_same_lists(ours, theirs)
        fields = {line.split()[0]: line.split() for line in ours.server("tag", "-l", "-x").splitlines()}
        assert fields["our-fix"][3] == fields["their-fix"][3]  # both count from the tag that they left

        # Each on the other's branch
        ours.server("checkout", "-b", "theirs")
        write(source, fixed="by them, and us")
        ours.publish(merge, options=("-a", "their-fix-2"))
        theirs.check()
        theirs.server("checkout", "-b", "ours")
        with theirs.publish("-a", "our-fix-2") as root:
            assert (root / "fixed").read_text() == "by us"
            write(root, fixed="by us, and them")
        theirs.server("checkout", "-b", "sub", "-t", "our-fix")
        with theirs.publish("-a", "sub-fix") as root:
            write(root, more="")
        assert_same_lists(ours, theirs)
        for tag in fields:
            upstream.check(theirs, "-n", tag)
        with upstream.mount(theirs, "CVMFS_REPOSITORY_TAG=their-fix-2\n") as mount:
            assert (mount.path / "file").read_text() == "one"
            assert (mount.path / "fixed").read_text() == "by them, and us"
        with upstream.mount(theirs) as mount:
            assert (mount.path / "file").read_text() == "two"

        # Removing the tags of a branch that others leave
        ours.server("tag", "-f", "-r", "our-fix our-fix-2")
        theirs.check()
        assert_same_lists(ours, theirs)
        assert "sub @" in theirs.server("tag", "-b")
        upstream.check(theirs)


def test_instant_snapshots_in_turn(
    upstream: Upstream, served: Directory, new_name: Callable[[str], str], tmp_path: Path
) -> None:
    with upstream.new_repository(new_name("virtual"), served, "-g") as theirs:
        conf = CONFIGURATION / "repositories.d" / theirs.name / "server.conf"
        ours = natively(theirs, served, tmp_path / "native", CVMFS_AUTO_TAG="false", CVMFS_VIRTUAL_DIR="true")
        with theirs.publish("-a", "one") as root:
            write(root, file="one", nest__file="one")
            (root / "nest" / ".cvmfscatalog").touch()
        with conf.open("a") as file:
            file.write("CVMFS_VIRTUAL_DIR=true\n")
        source = tmp_path / "source"
        write(source, file="two")
        merge = {"source": str(source), "base_dir": "/", "mode": "merge"}
        ours.publish(merge, options=("-a", "two"))
        theirs.check()
        upstream.check(theirs)
        assert_snapshots(upstream, theirs, {"one": "one", "two": "two"})

        with theirs.publish("-a", "three") as root:
            write(root, file="three")
        upstream.check(theirs)
        ours.check()
        assert_snapshots(upstream, theirs, {"one": "one", "two": "two", "three": "three"})
        assert_same_lists(ours, theirs)
        assert_same_differences(ours, theirs, "one", "trunk")

        ours.server("tag", "-f", "-r", "one")
        theirs.check()
        assert_snapshots(upstream, theirs, {"two": "two", "three": "three"})
        theirs.server("tag", "-a", "again", "-h", ours.server("tag", "-i", "two", "-x").split()[1])
        assert_snapshots(upstream, theirs, {"two": "two", "three": "three", "again": "two"})
        ours.server("rollback", "-f", "-t", "two")
        theirs.check()
        upstream.check(theirs)
        assert_snapshots(upstream, theirs, {"two": "two", "again": "two"})
        ours.server("checkout", "-b", "fix", "-t", "two")
        write(source, file="fixed")
        ours.publish(merge, options=("-a", "fixed"))
        theirs.check()
        upstream.check(theirs)
        assert_snapshots(upstream, theirs, {"two": "two", "again": "two", "fixed": "fixed"})

        # They take our directory away, we take theirs away
        conf.write_text(conf.read_text().replace("CVMFS_VIRTUAL_DIR=true", "CVMFS_VIRTUAL_DIR=false"))
        with theirs.publish() as root:
            write(root, file="four")
        upstream.check(theirs)
        with upstream.mount(theirs) as mount:
            assert not (mount.path / ".cvmfs").exists()
        conf.write_text(conf.read_text().replace("CVMFS_VIRTUAL_DIR=false", "CVMFS_VIRTUAL_DIR=true"))
        theirs.server("tag", "-a", "five")
        assert_snapshots(upstream, theirs, {"two": "two", "again": "two", "fixed": "fixed", "five": "four"})
        ours.configure({"CVMFS_UPSTREAM_STORAGE": served.storage_of(theirs.name), "CVMFS_VIRTUAL_DIR": "false"})
        ours.server("transaction")
        ours.server("publish")
        theirs.check()
        upstream.check(theirs)
        with upstream.mount(theirs) as mount:
            assert not (mount.path / ".cvmfs").exists()
            assert (mount.path / "file").read_text() == "four"


def assert_snapshots(upstream: Upstream, repository: Repository, expected: dict[str, str]) -> None:
    """The client shows each tag's revision, with all of its nested catalogs."""
    with upstream.mount(repository) as mount:
        directory = mount.path / ".cvmfs" / "snapshots"
        assert ".cvmfs" not in [path.name for path in mount.path.iterdir()]
        assert {path.name for path in directory.iterdir()} == expected.keys()
        for tag, text in expected.items():
            assert (directory / tag / "file").read_text() == text
            assert (directory / tag / "nest" / "file").read_text() == "one"


def test_layout_of_snapshots(
    upstream: Upstream, served: Directory, new_name: Callable[[str], str], new_native: New, tmp_path: Path
) -> None:
    """Clients see in our hidden directory what they see in CernVM-FS's own."""
    seen = []
    ours = new_native(served, CVMFS_VIRTUAL_DIR="true", CVMFS_AUTO_TAG="false")
    source = tmp_path / "source"
    write(source, file="one")
    ours.mirror(source, "/", "-a", "one")
    with upstream.mount(ours) as mount:
        seen.append(read_mount(mount.path / ".cvmfs"))
    with upstream.new_repository(new_name("virtual"), served, "-g") as theirs:
        with (CONFIGURATION / "repositories.d" / theirs.name / "server.conf").open("a") as file:
            file.write("CVMFS_VIRTUAL_DIR=true\n")
        with theirs.publish("-a", "one") as root:
            write(root, file="one")
        with upstream.mount(theirs) as mount:
            seen.append(read_mount(mount.path / ".cvmfs"))
    first, second = (
        {path: replace(node, mtime=0) for path, node in tree.items() if not path.startswith(b"snapshots/one/")}
        for tree in seen
    )
    for tree in (first, second):  # the root of one had a hidden directory already, that of the other had not
        tree[b"snapshots/one"] = replace(tree[b"snapshots/one"], nlink=0)
    assert not differences(first, second)


def test_clients_take_the_tag_of_a_date(
    upstream: Upstream, new_native: Callable[..., NativeRepository], served: Directory, tmp_path: Path
) -> None:
    native = new_native(served, CVMFS_AUTO_TAG="false")
    moments = []
    for name in ("first", "second"):
        write(tmp_path / "source", file=name)
        native.mirror(tmp_path / "source", "/", "-a", name)
        moments.append(datetime.datetime.now(datetime.UTC))
        time.sleep(1.1)
    for moment, name in zip(moments, ("first", "second"), strict=True):
        with upstream.mount(native, f"CVMFS_REPOSITORY_DATE={moment:%Y-%m-%dT%H:%M:%SZ}\n") as mount:
            assert mount.attribute("tag") == name
            assert (mount.path / "file").read_text() == name
    with pytest.raises(CommandFailed), upstream.mount(native, "CVMFS_REPOSITORY_DATE=2001-01-01T00:00:00Z\n"):
        pass
