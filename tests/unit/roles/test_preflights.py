# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles refuse what cannot work before they change anything, and say what is wrong with what."""

from __future__ import annotations

import copy
import pathlib
from typing import Any

import pytest
from preflights import FQRN, REPOSITORY, preflight

STORAGE = {"s3_storage_radosgw_admin": ["radosgw-admin"]}


def repositories(s3: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The inventory's repositories: one, with that said besides."""
    repository = copy.deepcopy(REPOSITORY)
    repository["s3"] |= s3 or {}
    return {"cvmfs_repositories": {FQRN: repository | more}, "cvmfs_keys": {FQRN: {"pub": "x", "crt": "x", "key": "x"}}}


REFUSED = [
    pytest.param("release_manager", repositories(server={"CVMFS_X": ["a"]}), "no string, number", id="list"),
    pytest.param("release_manager", repositories(client={"CVMFS_X": {"a": 1}}), "no string, number", id="dictionary"),
    pytest.param("release_manager", repositories(server={"CVMFS_X": None}), "no string, number", id="null"),
    pytest.param(
        "s3_storage", repositories({"settings": {"CVMFS_S3_HOST": "x"}}) | STORAGE, "s3.settings has", id="host"
    ),
    pytest.param("s3_storage", repositories({"settings": {"PROXY": "x"}}) | STORAGE, "s3.settings has PROXY", id="key"),
    pytest.param("s3_storage", repositories({"settings": {"CVMFS_S3_X": []}}) | STORAGE, "s3.settings has", id="value"),
    pytest.param("stratum0_frontend", repositories({"dns_buckets": "no"}), "s3.dns_buckets is not", id="nginx: switch"),
    pytest.param("stratum0_frontend", repositories({"cors_origins": "*"}), "not a list of origins", id="nginx: string"),
    pytest.param("stratum0_frontend", repositories({"cors_origins": ['a"b']}), "a list of origins", id="nginx: quote"),
    pytest.param("client", repositories({"endpoint": "s3.example.org"}), "a URL with nothing behind", id="client: URL"),
    pytest.param("client", repositories(stratum0_url="www"), "stratum0_url, a URL", id="client: stratum0_url"),
    pytest.param("monitoring", repositories({"dns_buckets": "no"}), "has to be true or false", id="monitoring: switch"),
    pytest.param("monitoring", repositories(stratum0_url="www"), "stratum0_url a URL", id="monitoring: stratum0_url"),
]


@pytest.mark.parametrize(("role", "variables", "message"), REFUSED)
def test_what_cannot_work_is_refused(
    tmp_path: pathlib.Path, role: str, variables: dict[str, Any], message: str
) -> None:
    assert message in preflight(tmp_path, role, **variables)


@pytest.mark.parametrize("role", ["release_manager", "s3_storage", "stratum0_frontend", "client", "monitoring"])
def test_what_can_work_is_not(tmp_path: pathlib.Path, role: str) -> None:
    cors = ["*", "https://*.example.org:8443"]
    s3 = {
        "dns_buckets": True,
        "cors_origins": cors,
        "settings": {"CVMFS_S3_PROXY": "http://a:1", "CVMFS_S3_TIMEOUT": 9},
    }
    server = {"CVMFS_GARBAGE_COLLECTION": True, "CVMFS_REPOSITORY_TTL": 120, "CVMFS_NAME": "x y"}
    assert preflight(tmp_path, role, **STORAGE, **repositories(s3, server=server)) == ""


@pytest.mark.parametrize("role", ["stratum0_frontend", "monitoring"])
def test_hosts_of_another_family(tmp_path: pathlib.Path, role: str) -> None:
    assert "is of the family RedHat" in preflight(tmp_path, role, os_family="RedHat", **repositories())


def test_images_are_built_on_debian(tmp_path: pathlib.Path) -> None:
    refused = preflight(tmp_path, "release_manager", os_family="RedHat", release_manager_build_image=True)
    assert "release_manager_build_image needs a host with Debian" in refused


def test_names_of_what_is_built_for_an_image(tmp_path: pathlib.Path) -> None:
    names = ["example.org:5000/a/b-package:1", "example.org:5000/a/b-base:1"]
    variables = {"release_manager_build_image": True, "release_manager_image": "example.org:5000/a/b:1"}
    assert preflight(tmp_path / "1", "release_manager", f"_release_manager_built_for_it == {names}", **variables) == ""
    names = [name.removesuffix(":1") for name in names]
    variables["release_manager_image"] = "example.org:5000/a/b"
    assert preflight(tmp_path / "2", "release_manager", f"_release_manager_built_for_it == {names}", **variables) == ""


@pytest.mark.parametrize(
    ("role", "none"),
    [
        ("release_manager", "_release_manager_present == []"),
        ("client", "_client_wanted | list == []"),
        ("monitoring", "_monitoring_targets == []"),
    ],
)
def test_what_is_to_be_imported_is_left_out(tmp_path: pathlib.Path, role: str, none: str) -> None:
    variables = {**repositories(create=False), "cvmfs_keys": {}}
    assert preflight(tmp_path, role, none, **variables) == ""
