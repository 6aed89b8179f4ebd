# SPDX-License-Identifier: GPL-3.0-or-later
"""What the current revision refers to is not uploaded again."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.content import Compression
from cvmfs_publisher.operations.check import check
from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.operations.publish import PublishOptions, PublishResult, ingest

NAME = "known.example.org"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    environment = Environment(tmp_path / "etc")
    directory = environment.repository_dir(NAME)
    directory.mkdir(parents=True)
    (directory / "server.conf").write_text(
        f"CVMFS_REPOSITORY_NAME={NAME}\nCVMFS_SPOOL_DIR={tmp_path}/spool\nCVMFS_MIN_CHUNK_SIZE=1000\n"
        "CVMFS_AVG_CHUNK_SIZE=2000\nCVMFS_MAX_CHUNK_SIZE=4000\n"
        f"CVMFS_UPSTREAM_STORAGE=local,{tmp_path}/txn,{tmp_path}/storage\n"
    )
    mkfs(environment, NAME, MkfsOptions())
    return environment


def publish(environment: Environment, source: Path, base_dir: str, *, checksum: bool = False) -> PublishResult:
    changes = ChangeSet.of_ingest(source=str(source), base_dir=base_dir, delete=[], mirror=True)
    return ingest(environment, NAME, changes, PublishOptions(checksum=checksum))


@pytest.mark.parametrize("marker", [False, True], ids=["one catalog", "nested catalogs"])
def test_second_release_uploads_only_what_is_new(environment: Environment, tmp_path: Path, marker: bool) -> None:
    release = tmp_path / "release"
    release.mkdir()
    for number in range(1500):
        (release / f"{number}").write_text(f"file {number}")
    (release / "large").write_bytes(b"".join(number.to_bytes(4) for number in range(5000)))
    if marker:
        (release / ".cvmfscatalog").touch()
    first = publish(environment, release, "sw/1.0")
    assert first.new_objects > 1500

    (release / "0").write_text("another file")
    shutil.copytree(release, tmp_path / "next")
    second = publish(environment, tmp_path / "next", "sw/1.1")

    assert second.added == first.added - 1  # /sw is there already
    # Until it pays to look, objects are uploaded without asking
    assert second.new_objects < 700
    assert check(environment, NAME, integrity=True).problems == []


def test_small_publish_looks_at_nothing(environment: Environment, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "file").write_text("some text")
    assert publish(environment, release, "sw/1.0").new_objects == 1
    assert publish(environment, release, "sw/1.1").new_objects == 1


@pytest.mark.parametrize("base_dir", ["sw/1.0", "sw/1.1"], ids=["same place", "another place"])
@pytest.mark.parametrize("count", [1, 1000], ids=["small", "large"])
def test_what_was_lost_is_uploaded_again(environment: Environment, tmp_path: Path, count: int, base_dir: str) -> None:
    """With checksum, nothing is believed; and what is there is not uploaded again."""
    release = tmp_path / "release"
    release.mkdir()
    for number in range(count):
        (release / f"{number}").write_text(f"file {number}")
    (release / "large").write_bytes(b"".join(number.to_bytes(4) for number in range(5000)))
    data = tmp_path / "storage" / "data"
    before = set(data.rglob("*"))
    publish(environment, release, "sw/1.0")
    objects = (path for path in data.rglob("*") if path.is_file() and path not in before)
    lost = [path for path in objects if not path.name.endswith(("C", "H", "M", "X"))]
    for path in lost:
        path.unlink()
    assert check(environment, NAME).problems
    assert publish(environment, release, base_dir, checksum=True).new_objects == len(lost)
    assert check(environment, NAME, integrity=True).problems == []
    if base_dir == "sw/1.0":
        again = publish(environment, release, base_dir, checksum=True)
        assert (again.changed, again.new_objects) == (False, 0)


@pytest.mark.parametrize("count", [1, 1000], ids=["small", "large"])
def test_grafted_files_are_not_known(environment: Environment, tmp_path: Path, count: int) -> None:
    """Their data may come later, at the same path or another one."""
    release = tmp_path / "release"
    release.mkdir()
    for number in range(count):
        data = f"file {number}".encode()
        (release / f"{number}").touch()
        checksum = hashlib.sha1(Compression.NONE.compress(data)).hexdigest()  # noqa: S324
        (release / f".cvmfsgraft-{number}").write_text(f"size={len(data)}\nchecksum={checksum}\ncompression=none\n")
    publish(environment, release, "sw/1.0")
    assert len(check(environment, NAME, integrity=True).problems) == count

    for number in range(count):
        (release / f".cvmfsgraft-{number}").unlink()
        (release / f"{number}").write_text(f"file {number}")
    options = PublishOptions(compression="none")
    for base_dir in ("sw/1.0", "sw/1.1"):
        changes = ChangeSet.of_ingest(source=str(release), base_dir=base_dir, delete=[], mirror=True)
        assert ingest(environment, NAME, changes, options).new_objects == count
    assert check(environment, NAME, integrity=True).problems == []
