# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After an upgrade and a rollback: what the release has published is there, and the host has nothing of the release.

The records beside the release are of what everybody could read over HTTP, see record.py.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import sys
import typing as t

import pytest
import testinfra

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "shared/tests"))

from reader import Entry, PublishedTree

INSTANCE = "cvmfs-molecule-upgrade"
REPOSITORY = "molecule.example.org"
EPHEMERAL = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
RELEASE = EPHEMERAL / "release"
FACTS = "release-manager.json"
IMAGE = "localhost/cvmfs-release-manager:native"


@dataclasses.dataclass(frozen=True)
class Record:
    """What there was to be read."""

    revision: int
    root_hash: str
    tree: dict[str, Entry]
    objects: set[str]
    tags: dict[str, int]
    whitelist_expires: datetime.datetime

    @classmethod
    def load(cls, name: str) -> Record:
        found = json.loads((RELEASE / f"{name}.json").read_text())
        return cls(
            revision=found["revision"],
            root_hash=found["root_hash"],
            tree={path: Entry(**entry) for path, entry in found["tree"].items()},
            objects=set(found["objects"]),
            tags=found["tags"],
            whitelist_expires=datetime.datetime.strptime(found["whitelist_expires"], "E%Y%m%d%H%M%S"),
        )


@pytest.fixture(scope="module")
def host() -> testinfra.host.Host:
    return testinfra.get_host(f"podman://{INSTANCE}")


@pytest.fixture(scope="module")
def published() -> PublishedTree:
    """What there is to be read now, after the rollback."""
    return PublishedTree(f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/cvmfs-molecule-upgrade/{REPOSITORY}")


@pytest.fixture(scope="module")
def facts(host: testinfra.host.Host) -> dict[str, t.Any]:
    """What the modules know on the host."""
    return t.cast("dict[str, t.Any]", json.loads(host.file(f"/etc/cvmfs-publishing/{REPOSITORY}/{FACTS}").content))


@pytest.fixture(scope="module")
def facts_of_release() -> dict[str, t.Any]:
    """What the release's modules knew there."""
    return t.cast("dict[str, t.Any]", json.loads((RELEASE / FACTS).read_text()))


def access_key(s3_conf: str) -> str:
    (found,) = (line.partition("=")[2] for line in s3_conf.splitlines() if line.startswith("CVMFS_S3_ACCESS_KEY="))
    return found


def test_release_has_published() -> None:
    record = Record.load("left")
    assert record.revision == 4  # created, and published three times
    assert record.tags.items() >= {"v1": 2, "v1.1": 4}.items()


def test_new_version_has_published_on_top() -> None:
    before, after = Record.load("left"), Record.load("v2")
    assert after.revision == 5
    assert after.tags.items() >= {"v1": 2, "v1.1": 4, "v2": 5}.items()
    assert after.tree.keys() - before.tree.keys() == {"site/NEWS"}
    assert {path: after.tree[path] for path in before.tree} == before.tree


def test_whitelist_is_signed_again() -> None:
    before, after = Record.load("left"), Record.load("v2")
    assert after.whitelist_expires - before.whitelist_expires > datetime.timedelta(days=20)


@pytest.mark.parametrize("name", ["v1", "v1.1", "v2"])
def test_each_tagged_revision_reads_as_before(published: PublishedTree, name: str) -> None:
    record = Record.load(name)
    assert published.tree(record.root_hash) == record.tree


def test_garbage_of_release_is_gone(published: PublishedTree) -> None:
    untagged = Record.load("untagged")
    assert "site/INTERIM" in untagged.tree
    garbage = untagged.objects.difference(*(Record.load(name).objects for name in ("v1", "v1.1", "v2")))
    assert len(garbage) >= 3  # the file, and both catalogs
    assert {published.request("GET", key)[0] for key in garbage} == {404}


def test_everything_is_as_in_the_tag_of_release(published: PublishedTree) -> None:
    assert published.revision == 6
    assert published.tree() == Record.load("v1").tree
    tags = published.tags()
    assert tags.keys() == {"v1", "trunk"}
    assert tags["v1"][0] == 6  # as cvmfs_server has it: the tag goes along


@pytest.mark.parametrize("kind", ["pub", "crt", "key", "masterkey"])
def test_keys_are_the_same(kind: str) -> None:
    name = f"keys/{REPOSITORY}.{kind}"
    assert (EPHEMERAL / name).read_text() == (RELEASE / name).read_text()


def test_host_has_keys_that_only_publish(
    host: testinfra.host.Host, facts: dict[str, t.Any], facts_of_release: dict[str, t.Any]
) -> None:
    """Publishers had the bucket owner's keys once."""
    name = f"keys/{REPOSITORY}.s3.conf"
    assert access_key((EPHEMERAL / name).read_text()) != access_key((RELEASE / name).read_text())
    before, now = facts_of_release["secrets"], facts["secrets"]
    assert {target for target in now if now[target] != before[target]} == {f"s3/{REPOSITORY}.conf"}
    assert sorted(host.check_output("podman secret ls --format '{{.Name}}'").split()) == sorted(now.values())


def test_host_has_what_is_new(
    host: testinfra.host.Host, facts: dict[str, t.Any], facts_of_release: dict[str, t.Any]
) -> None:
    assert (facts_of_release["image"], facts["image"]) == ("localhost/cvmfs-release-manager:0.1.0", IMAGE)
    assert REPOSITORY in host.check_output("cvmfs-release-manager status")


def test_nothing_is_left_of_a_container(host: testinfra.host.Host) -> None:
    assert host.check_output("podman ps --all --quiet") == ""
    assert host.check_output("podman volume ls --quiet") == ""
