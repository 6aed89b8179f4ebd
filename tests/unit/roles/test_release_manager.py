# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role release_manager makes of a host's distribution and engine."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from preflights import FQRN, REPOSITORY, preflight

REPOSITORIES = {"release_manager_repositories": {FQRN: REPOSITORY}}
LIMITED = {"max-size": "10m", "max-file": "3"}


@pytest.mark.parametrize(
    ("family", "engine", "package"),
    [
        ("Debian", "podman", "podman"),
        ("Debian", "docker", "docker.io"),
        ("RedHat", "podman", "podman"),
        ("RedHat", "docker", None),
        ("Suse", "podman", None),
    ],
)
def test_packages_of_engines(tmp_path: pathlib.Path, family: str, engine: str, package: str | None) -> None:
    name = "_release_manager_engine_package"
    is_right = f"{name} == '{package}'" if package else f"{name} is not defined"
    variables = {**REPOSITORIES, "release_manager_engine": engine}
    assert preflight(tmp_path, "release_manager", is_right, os_family=family, **variables) == ""


@pytest.mark.parametrize(
    ("family", "query", "installed"),
    [("Debian", "dpkg-query", ["dbus-user-session", "slirp4netns"]), ("RedHat", "rpm", ["shadow-utils"])],
)
def test_only_what_is_missing_is_installed(
    tmp_path: pathlib.Path, family: str, query: str, installed: list[str]
) -> None:
    answers = [{"item": name, "stdout": "installed"} for name in installed]
    # dpkg knows packages that were removed; what neither has ever had is an error, without an answer.
    answers += [{"item": "removed", "stdout": "config-files"}, {"item": "unknown", "stdout": ""}]
    looked = {"__release_manager_engine": {"rc": 2}, "__release_manager_packages": {"results": answers}}
    conditions = [
        f"_release_manager_package_query[0] == '{query}'",
        "_release_manager_missing == ['podman', 'removed', 'unknown']",
        f"{installed} is subset(_release_manager_rootless_packages['{family}'])",
    ]
    assert preflight(tmp_path, "release_manager", *conditions, os_family=family, **REPOSITORIES, **looked) == ""


@pytest.mark.parametrize(
    ("engine", "default", "variables", "options"),
    [
        ("docker", "json-file", {}, LIMITED),
        ("docker", "journald", {}, {}),
        ("docker", "journald", {"release_manager_log_driver": "json-file"}, LIMITED),
        ("docker", "json-file", {"release_manager_log_driver": "local"}, {}),
        ("docker", "json-file", {"release_manager_log_options": {"max-size": "1m"}}, {"max-size": "1m"}),
        ("podman", "", {}, {}),
        ("podman", "", {"release_manager_log_options": {"max-size": "1m"}}, {"max-size": "1m"}),
    ],
)
def test_logs_are_kept_in_bounds(
    tmp_path: pathlib.Path, engine: str, default: str, variables: dict[str, Any], options: dict[str, str]
) -> None:
    looked = {"release_manager_engine": engine, "__release_manager_engine_works": {"rc": 0, "stdout": default}}
    is_right = f"_release_manager_log_options == {options}"
    assert preflight(tmp_path, "release_manager", is_right, **REPOSITORIES, **looked, **variables) == ""


def test_keys_that_the_inventory_has_need_no_schedule(tmp_path: pathlib.Path) -> None:
    jwks = {"keys": [{"kid": "a"}]}
    issuer = {"issuer": "https://gitlab.example.org", "audience": "x", "names": {"a": {"sub": "b"}}, "jwks": jwks}
    variables = {**REPOSITORIES, "release_manager_oidc": [issuer], "release_manager_oidc_schedule": "hourly"}
    assert preflight(tmp_path, "release_manager", "not _release_manager_oidc_schedule", **variables) == ""
