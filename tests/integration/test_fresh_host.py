# SPDX-License-Identifier: GPL-3.0-or-later
"""On a host that has nothing yet, no container engine either, check mode says what the role would do."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Site
from .hosts import on_host, play_on, start_host

pytestmark = pytest.mark.roles

NAME = "software.example.org"


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        yield start_host(stack, "fresh")


def have_keys(site: Site) -> None:
    """Have the keys of a repository that is somewhere already."""
    site.keys.mkdir()
    made = site.module("cvmfs_keys", repository=NAME, directory=str(site.keys))
    assert made["changed"], made
    (site.keys / f"{NAME}.s3.conf").write_text("CVMFS_S3_ACCESS_KEY=a\nCVMFS_S3_SECRET_KEY=b\n")


@pytest.mark.parametrize(
    ("is_known", "settings", "missing"),
    [
        (False, {}, "podman"),
        (True, {"signing_service": True, "schedules": {"gc": "daily"}}, "podman"),
        (True, {"user": "cvmfs-sw"}, "podman, dbus-user-session, slirp4netns, uidmap"),
    ],
    ids=["new site", "another host", "service user"],
)
def test_it_is_predicted(
    tmp_path: pathlib.Path, host: str, is_known: bool, settings: dict[str, Any], missing: str
) -> None:
    site = Site.without_storage(tmp_path)
    if is_known:
        have_keys(site)
    before = sorted(site.keys.glob("*"))
    variables = {
        "cvmfs_keys_dir": str(site.keys),
        "cvmfs_repositories": {NAME: {"s3": {"endpoint": "http://127.0.0.1:9", "bucket": "b"}, **settings}},
        "release_manager_pull_image": True,
    }
    run = play_on(site, "release_managers", {host: {}}, "--check", "--diff", **variables).expect()
    assert f"{missing} would be installed from the distribution's packages" in run.output
    assert run.changed > 5
    traces = "find /etc /usr /var/lib -iname '*cvmfs*'; grep cvmfs /etc/passwd /etc/subuid; command -v podman"
    assert on_host(host, "sh", "-c", f"{traces} || true") == ""
    assert sorted(site.keys.glob("*")) == before
