# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""What is on a host before the role has run, with two repositories, with one of them, and when all has gone again."""

from __future__ import annotations

import json
import os
import pathlib
import typing as t
import urllib.request

import pytest
import testinfra

Listing = dict[str, list[str]]
INSTANCE = "cvmfs-molecule-removal"
USER = "cvmfs-molecule"
PEOPLE = ["cvmfs-all", "cvmfs-atlas", "cvmfs-pipelines"]  # who log in by SSH
STAYING, DROPPED = "molecule.example.org", "dropped.example.org"
NOTHING: Listing = {"paths": [], "users": [], "subordinate": [], "secrets": [], "timers": []}


@pytest.fixture(scope="module")
def host() -> testinfra.host.Host:
    return testinfra.get_host(f"podman://{INSTANCE}")


@pytest.fixture(scope="module")
def listings(host: testinfra.host.Host) -> dict[str, Listing]:
    host.check_output("python3 -c %s /root/after.json", pathlib.Path(__file__).with_name("listing.py").read_text())
    names = ("before", "between", "without", "after")
    return {name: t.cast(Listing, json.loads(host.check_output("cat /root/%s.json", name))) for name in names}


def gained(now: Listing, before: Listing) -> Listing:
    return {kind: sorted(set(now[kind]) - set(before[kind])) for kind in before}


def test_the_role_has_put_everything_there(listings: dict[str, Listing]) -> None:
    new = gained(listings["between"], listings["before"])
    assert all(new.values()), new
    assert "/usr/local/bin/cvmfs-release-manager" in new["paths"]
    assert any(path.startswith("/etc/cvmfs-publishing/oidc.json ") for path in new["paths"])
    accounts = sorted([USER, *PEOPLE])
    assert sorted(line.split(":")[0] for line in new["users"]) == accounts
    assert sorted(line.split(":")[0] for line in new["subordinate"]) == accounts
    assert set(new["timers"]) == {
        f"cvmfs-check@{STAYING}.timer",
        f"cvmfs-resign@{STAYING}.timer",
        f"cvmfs-check@{DROPPED}.timer",
    }


def test_one_repository_goes_and_nothing_else(listings: dict[str, Listing]) -> None:
    home = f"/var/lib/cvmfs-publishing/{USER}/"  # where podman has just ended a container
    gone = gained(listings["between"], listings["without"])
    others = [path for path in gone["paths"] if DROPPED not in path and not path.startswith(home)]
    assert others == []
    assert any(path.startswith(f"/etc/cvmfs-publishing/{DROPPED}/server.conf ") for path in gone["paths"])
    assert gone["timers"] == [f"cvmfs-check@{DROPPED}.timer"]
    assert {name.rpartition("-")[0] for name in gone["secrets"]} == {
        f"cvmfs-{DROPPED}-{what}" for what in ("crt", "key", "s3")
    }
    assert gone["users"] == gone["subordinate"] == []


def test_nothing_is_left(listings: dict[str, Listing]) -> None:
    assert gained(listings["after"], listings["before"]) == NOTHING


def test_nothing_else_is_gone(listings: dict[str, Listing]) -> None:
    assert gained(listings["before"], listings["after"]) == NOTHING


def test_no_process_is_left(host: testinfra.host.Host) -> None:
    owners = host.run("stat --format=%U /proc/[0-9]*").stdout.split()  # some end meanwhile
    assert "root" in owners
    assert not {USER, *PEOPLE, "UNKNOWN"} & set(owners)


@pytest.mark.parametrize(
    ("repository", "bucket"),
    [(STAYING, "cvmfs-molecule-removal"), (DROPPED, "cvmfs-molecule-removal-dropped")],
)
def test_repositories_stay_in_their_buckets(repository: str, bucket: str) -> None:
    url = f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/{bucket}/{repository}/.cvmfspublished"
    with urllib.request.urlopen(url) as response:  # noqa: S310
        assert f"N{repository}\n".encode() in response.read()
