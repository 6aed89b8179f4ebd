# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After an upgrade: what was published is there, what is new is there, too, and the host has nothing of old."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sqlite3
import sys
import tarfile
import typing as t

import pytest
import testinfra

SCENARIO = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(SCENARIO.parent / "shared/tests"))

from reader import PublishedTree  # noqa: E402 (of the shared tests)

INSTANCE = "cvmfs-molecule-upgrade"
REPOSITORY = "molecule.example.org"
KEYS = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "keys"
FACTS = "release-manager.json"


@pytest.fixture(scope="module")
def host() -> testinfra.host.Host:
    return testinfra.get_host(f"podman://{INSTANCE}")


@pytest.fixture(scope="module")
def published() -> PublishedTree:
    return PublishedTree(f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/cvmfs-molecule-upgrade/{REPOSITORY}")


@pytest.fixture(scope="module")
def facts(host: testinfra.host.Host) -> dict[str, t.Any]:
    """What the modules know on the host."""
    return t.cast("dict[str, t.Any]", json.loads(host.file(f"/etc/cvmfs-publishing/{REPOSITORY}/{FACTS}").content))


def left(name: str) -> str:
    return (SCENARIO / "left" / name).read_text()


def access_key(s3_conf: str) -> str:
    (found,) = (line.partition("=")[2] for line in s3_conf.splitlines() if line.startswith("CVMFS_S3_ACCESS_KEY="))
    return found


def test_one_revision_was_added(published: PublishedTree) -> None:
    assert published.revision == 3
    tree = published.tree()
    assert {"site/README", "site/.cvmfscatalog", "site/NEWS"} <= set(tree)


def test_every_object_of_old_is_there(published: PublishedTree) -> None:
    with tarfile.open(SCENARIO / "left/bucket.tar") as archive:
        objects = [member for member in archive if member.isfile() and "/data/" in member.name]
        assert len(objects) == 10
        for member in objects:
            data = t.cast(t.IO[bytes], archive.extractfile(member)).read()
            assert published.get(member.name.removeprefix(f"{REPOSITORY}/")) == data


def test_tags_of_old_are_there(published: PublishedTree, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "history.db"
    file.write_bytes(published.object(published.manifest["H"], "H"))
    with contextlib.closing(sqlite3.connect(file)) as database:
        tags = dict(database.execute("SELECT name, revision FROM tags"))
    assert tags["v1"] == 2
    assert tags["v2"] == 3


@pytest.mark.parametrize("kind", ["pub", "crt", "key", "masterkey"])
def test_keys_are_the_same(kind: str) -> None:
    name = f"{REPOSITORY}.{kind}"
    assert (KEYS / name).read_text() == left(f"keys/{name}")


def test_host_has_keys_that_only_publish(host: testinfra.host.Host, facts: dict[str, t.Any]) -> None:
    """Publishers had the bucket owner's keys once."""
    name = f"keys/{REPOSITORY}.s3.conf"
    before, now = json.loads(left(f"host/{FACTS}"))["secrets"], facts["secrets"]
    assert access_key((KEYS.parent / name).read_text()) != access_key(left(name))
    changed = {target for target in now if now[target] != before[target]}
    assert changed == {f"s3/{REPOSITORY}.conf"}
    assert sorted(host.check_output("podman secret ls --format '{{.Name}}'").split()) == sorted(now.values())


def test_host_has_what_is_new(host: testinfra.host.Host) -> None:
    assert REPOSITORY in host.check_output("cvmfs-release-manager status")
