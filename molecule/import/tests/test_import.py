# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After the move: who published before is kept out, and the bucket has what was there, under the same keys."""

from __future__ import annotations

import os
import pathlib
import urllib.request

import pytest
import testinfra

INSTANCE = "cvmfs-molecule-import"
REPOSITORY = "molecule.example.org"
KEYS = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "keys"


@pytest.fixture(scope="module")
def host() -> testinfra.host.Host:
    return testinfra.get_host(f"podman://{INSTANCE}")


def test_the_old_release_manager_cannot_publish(host: testinfra.host.Host) -> None:
    refused = host.run(f"cvmfs_server transaction {REPOSITORY}")
    assert refused.rc != 0
    assert "transaction" in refused.stderr


@pytest.mark.parametrize("kind", ["pub", "crt", "key", "masterkey"])
def test_the_keys_are_the_same(host: testinfra.host.Host, kind: str) -> None:
    name = f"{REPOSITORY}.{kind}"
    assert host.file(f"/etc/cvmfs/keys/{name}").content == (KEYS / name).read_bytes()


def test_the_bucket_is_ahead(host: testinfra.host.Host) -> None:
    """It has what was published since, and everything that there was before."""
    endpoint = os.environ["CVMFS_TEST_S3_ENDPOINT"]
    with urllib.request.urlopen(f"{endpoint}/cvmfs-molecule-import/{REPOSITORY}/.cvmfspublished") as answer:  # noqa: S310
        published = answer.read()
    old = host.file(f"/srv/cvmfs/{REPOSITORY}/.cvmfspublished").content
    assert b"S3" in old.splitlines()
    assert b"S4" in published.splitlines()
    (certificate,) = (line for line in old.splitlines() if line.startswith(b"X"))
    assert certificate in published.splitlines()
