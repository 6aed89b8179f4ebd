# SPDX-License-Identifier: GPL-3.0-or-later
"""What the native publisher publishes, CernVM-FS's own client shows, and its own check finds in order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from . import sources
from .native import KEEP_ALL, NativeRepository, NewNative
from .services import Bucket, Directory, Place
from .trees import differences, read_directory, read_mount, whole_seconds, without_xattrs
from .upstream import Upstream, fetch


@pytest.fixture(scope="module")
def repository(new_native: NewNative, place: Place) -> NativeRepository:
    return new_native(place, **KEEP_ALL)


def test_new_repository(upstream: Upstream, repository: NativeRepository) -> None:
    upstream.check(repository)
    with upstream.mount(repository) as mount:
        assert mount.attribute("revision") == "1"
        assert mount.attribute("fqrn") == repository.name
        assert [path.name for path in mount.path.iterdir()] == ["new_repository"]
    assert fetch(f"{repository.url}/.cvmfs_master_replica")


def test_awkward_trees(upstream: Upstream, repository: NativeRepository, tmp_path: Path) -> None:
    trees = {}
    for number in (1, 2, 3):
        source = sources.make(sources.awkward(number), tmp_path / "source")
        trees[number] = read_directory(source)
        result = repository.mirror(source, "/", "-a", f"awkward-{number}")
        assert result["revision"] == int(repository.manifest()["S"]) == number + 1
        upstream.assert_shows(repository, trees[number])
        repository.check()

    # Each nested catalog by itself
    for path in ("/nested", "/nested/two", "/nested/linked"):
        upstream.check(repository, "-s", path)

    # The tag of an old revision
    upstream.check(repository, "-n", "awkward-1")
    with upstream.mount(repository, "CVMFS_REPOSITORY_TAG=awkward-1\n") as mount:
        assert mount.attribute("revision") == "2"
        assert not differences(trees[1], read_mount(mount.path))


def test_large_files(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    repository = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.large(), tmp_path / "source")
    repository.mirror(source)
    upstream.assert_shows(repository, read_directory(source))


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_kept_is_a_setting(
    upstream: Upstream, new_native: NewNative, served: Directory, tmp_path: Path, kept: bool
) -> None:
    repository = new_native(served, CVMFS_ENABLE_MTIME_NS=str(kept).lower(), CVMFS_INCLUDE_XATTRS=str(kept).lower())
    file = sources.File(3, 1, xattrs={"user.empty": b"", "user.bytes": b"\xff\0\n", "user.long": b"x" * 255})
    source = sources.make(sources.Directory({b"file": file, b"other": sources.File(4)}), tmp_path / "source")
    repository.mirror(source)
    expected = read_directory(source)
    assert expected[b"file"].xattrs
    upstream.assert_shows(repository, expected if kept else whole_seconds(without_xattrs(expected)))


def test_content_that_changes_in_secret(
    upstream: Upstream, new_native: NewNative, served: Directory, tmp_path: Path
) -> None:
    """Same size, same time: found when the publisher is told to read everything."""
    repository = new_native(served, **KEEP_ALL)
    source = tmp_path / "source"
    repository.mirror(sources.make(sources.Directory({b"file": sources.File(50, 1)}), source))
    sources.make(sources.Directory({b"file": sources.File(50, 2)}), source)
    repository.mirror(source, "/", "--checksum")
    upstream.assert_shows(repository, read_directory(source))


def test_real_software(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    """A mounted client follows as software is added, changed and removed."""
    repository = new_native(bucket, **KEEP_ALL)
    (tmp_path / "sw").mkdir()
    environment = sources.virtual_environment(tmp_path / "sw" / "environment")
    repository.mirror(tmp_path / "sw")
    # Else the kernel keeps the attributes of the mounted root for a minute, whatever it is told
    with upstream.mount(repository, "CVMFS_KCACHE_TIMEOUT=0\n") as mount:
        assert not differences(read_directory(tmp_path / "sw"), read_mount(mount.path))

        sources.git_checkout(tmp_path / "sw" / "checkout")
        shutil.rmtree(environment / "include")
        (environment / "pyvenv.cfg").write_text("changed\n")
        result = repository.mirror(tmp_path / "sw")
        mount.update()
        assert mount.attribute("revision") == str(result["revision"])
        assert not differences(read_directory(tmp_path / "sw"), read_mount(mount.path))
    upstream.check(repository)


def test_trees_made_by_chance(upstream: Upstream, new_native: NewNative, served: Directory) -> None:
    """Each tree replaces the one before, so that anything becomes anything else."""
    repository = new_native(served, **KEEP_ALL)

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
    @given(tree=sources.TREES)
    def publish(tree: sources.Directory) -> None:
        with tempfile.TemporaryDirectory() as directory:
            source = sources.make(tree, Path(directory, "source"))
            expected = read_directory(source)
            repository.mirror(source, "/", "-a", f"tag-{repository.manifest()['S']}")
            upstream.assert_shows(repository, expected)

    publish()


def test_stratum_1(upstream: Upstream, new_native: NewNative, bucket: Bucket, tmp_path: Path) -> None:
    repository = new_native(bucket, **KEEP_ALL)
    source = sources.make(sources.awkward(1), tmp_path / "source")
    repository.mirror(source, "/", "-a", "first")
    with upstream.replica(repository, bucket) as replica:
        with upstream.mount(replica) as mount:
            assert not differences(read_directory(source), read_mount(mount.path))

        sources.make(sources.awkward(2), source)
        repository.mirror(source, "/", "-a", "second")
        upstream.snapshot(replica)
        assert replica.manifest() == repository.manifest()
        with upstream.mount(replica) as mount:
            assert not differences(read_directory(source), read_mount(mount.path))
        upstream.check(replica, manifest_names_reflog=False)
