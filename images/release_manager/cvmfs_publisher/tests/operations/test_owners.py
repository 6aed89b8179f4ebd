# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of owners: their files, and what becomes of what is published."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from changes.repository import Repository, make, merge, mirror

from cvmfs_publisher.changes.change_set import Owner
from cvmfs_publisher.changes.owner_map import OwnerMap, Owners
from cvmfs_publisher.errors import ConfigurationError
from operations.managers import ReleaseManager
from operations.managers import make as make_files

DOCUMENTED = b"# map root UID to 1\n0 1\n\n# swap\n 7  8 \n8 7\n# everybody else\n* 2"


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (DOCUMENTED, 0, 1),
        (DOCUMENTED, 7, 8),
        (DOCUMENTED, 8, 7),
        (DOCUMENTED, 9, 2),
        (b"0 1", 9, 9),
        (b"0 1\n0 2", 0, 2),
        (b"* 5", 0, 5),
        (b"4294967295\t4294967295", 3, 3),
    ],
)
def test_what_a_map_means(text: bytes, before: int, after: int) -> None:
    assert OwnerMap.parse(text, "uid.map")(before) == after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "uid.map has no rule in it. Write two numbers"),
        (b"# 0 1\n\n", "uid.map has no rule in it"),
        (b"0 1\n\nroot 1", "uid.map, line 3 is no rule: 'root 1'. Write two numbers"),
        (b"0", "uid.map, line 1 is no rule: '0'"),
        (b"0 1 2", "uid.map, line 1 is no rule"),
        (b"0 *", "uid.map, line 1 is no rule"),
        (b"-1 0", "uid.map, line 1 is no rule"),
        (b"0 4294967296", "uid.map, line 1 is no rule"),
        (b"0 1 # comment", "uid.map, line 1 is no rule"),
        (b"\xff 1", r"uid.map, line 1 is no rule: '\\\\xff 1'"),
    ],
)
def test_what_is_no_map(text: bytes, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        OwnerMap.parse(text, "uid.map")


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Cannot read the map of owners .*none: No such file"):
        Owners.load(str(tmp_path / "none"), "")


OWNERS = Owners(OwnerMap({0: 5, 30: 31}), OwnerMap({}, 9))


def test_directories(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    source = make(tmp_path / "source", {"file": "x", "dir/other": "y"})
    os.chown(source / "dir/other", 30, 30)
    repository.publish(mirror(source), owners=OWNERS)
    seen = repository.seen(b"sw")
    assert {(path, found.uid, found.gid) for path, found in seen.items()} == {
        (b"", 5, 9),
        (b"file", 5, 9),
        (b"dir", 5, 9),
        (b"dir/other", 31, 9),
    }
    assert not repository.publish(mirror(source), owners=OWNERS).changed
    repository.publish(mirror(source, owner=Owner(30, 30)), owners=OWNERS)
    assert {(found.uid, found.gid) for found in repository.seen(b"sw").values()} == {(31, 9)}


def test_archives(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("dir/file")
        info.uid, info.gid, info.size = 30, 30, 1
        archive.addfile(info, io.BytesIO(b"x"))
    kept = merge("-", keep_ownership=True)
    repository.publish(kept, stdin=out.getvalue(), owners=OWNERS)
    seen = repository.seen(b"sw")[b"dir/file"]
    assert (seen.uid, seen.gid) == (31, 9)
    report = repository.publish(kept, stdin=out.getvalue(), owners=OWNERS)
    assert (report.changed, report.files) == (False, 0)


def test_settings(local: ReleaseManager, tmp_path: Path) -> None:
    """The command line reads the maps, the limits and the balance that server.conf names."""
    (tmp_path / "uid.map").write_text("* 77")
    local.configure(
        CVMFS_UID_MAP=str(tmp_path / "uid.map"),
        CVMFS_AUTOCATALOGS="true",
        CVMFS_AUTOCATALOGS_MAX_WEIGHT="6",
        CVMFS_AUTOCATALOGS_MIN_WEIGHT="2",
        CVMFS_FILE_MBYTE_LIMIT="1",
    )
    source = make_files(tmp_path / "source", a__1="", a__2="", a__3="", large=b"x" * (2 << 20))
    outcome = local.server("ingest", "--directory", source, "-b", "sw", "--json").succeeded()
    assert "sw/a/.cvmfsautocatalog" in outcome.document["paths"]["added"]
    (warning,) = (text for text in outcome.document["warnings"] if "CVMFS_FILE_MBYTE_LIMIT is 1" in text)
    assert "/sw/large" in warning
    local.check()

    local.configure(CVMFS_ENFORCE_LIMITS="true")
    (source / "large").write_bytes(b"y" * (2 << 20))
    local.refuses("ingest", "--directory", source, "-b", "sw", says=["/sw/large has 2 megabytes"])
    local.configure(CVMFS_AUTOCATALOGS_MAX_WEIGHT="1")
    local.refuses("ingest", "--directory", source, "-b", "sw", says=["CVMFS_AUTOCATALOGS_MIN_WEIGHT=2"])
    (tmp_path / "uid.map").write_text("0 1\nx")
    local.refuses("ingest", "--directory", source, "-b", "sw", says=["uid.map, line 2"])
