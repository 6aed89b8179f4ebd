# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After a power cut: the bucket has what both hosts have published, and neither keeps anything of it."""

from __future__ import annotations

import json
import os
import urllib.request

import pytest
import testinfra

REPOSITORY = "molecule.example.org"
URL = f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/cvmfs-molecule-multi-host/{REPOSITORY}"


def read(name: str) -> bytes:
    with urllib.request.urlopen(f"{URL}/{name}") as answer:  # noqa: S310
        content: bytes = answer.read()
    return content


def test_each_publish_is_one_revision() -> None:
    manifest = read(".cvmfspublished").splitlines()
    assert b"S4" in manifest  # created, published, published by the other host, and by the one that is back


def test_the_lease_was_given_back() -> None:
    assert json.loads(read(".cvmfs_publishing_lease.json"))["is_released"] is True


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_left_on_a_host(number: int) -> None:
    host = testinfra.get_host(f"podman://cvmfs-molecule-multi-host-{number}")
    assert host.check_output("podman ps --all --quiet") == ""
    assert host.check_output("podman volume ls --quiet") == ""
