# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release manager leaves on the host's disk: while it works, and when it is gone."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import ROOT, Site
from .plays import run_tasks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look everywhere")

SEARCH = ROOT / "tests/integration/search_secrets.py"


@pytest.fixture
def transaction(site: Site, source: pathlib.Path) -> Iterator[dict[str, Any]]:
    """A transaction that is open."""
    (opened,) = run_tasks(site, {"cvmfs_transaction": {"sources": [str(source)]}})
    transaction: dict[str, Any] = opened["transaction"]
    yield transaction
    run_tasks(site, {"cvmfs_transaction": {"id": transaction["id"], "state": "aborted"}})


def engine_directories(site: Site) -> list[pathlib.Path]:
    """Where the engine keeps what it knows of containers and secrets. Images' layers are none of it, and large."""
    if site.engine == "docker":
        root = pathlib.Path(site.engine_command("info", "--format", "{{.DockerRootDir}}").strip())
        return [root / "containers", root / "volumes", site.docker_secrets]
    store = json.loads(site.engine_command("info", "--format", "{{json .Store}}"))
    root = pathlib.Path(store["graphRoot"])
    found = [root / "overlay-containers", root / "secrets", root / "libpod", pathlib.Path(store["runRoot"])]
    return [path for path in found if path.exists()]


def search(site: Site, *more: pathlib.Path) -> list[dict[str, str]]:
    """Look for the site's secrets in the engine's directories, in those given, and in all processes."""
    roots = [str(path) for path in (*engine_directories(site), site.config, *more)]
    needles = {f"secret {number}": secret for number, secret in enumerate(site.secrets())}
    request = json.dumps({"needles": needles, "roots": roots, "pids": None})
    done = subprocess.run([sys.executable, SEARCH], input=request, check=True, stdout=subprocess.PIPE, text=True)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def is_store(site: Site, place: str) -> bool:
    """Whether secrets belong there: in the engine's store, and in what it shows to the containers that use them."""
    path = pathlib.Path(place)
    if site.engine == "docker":
        return path.is_relative_to(site.docker_secrets)
    secrets, containers = engine_directories(site)[1], engine_directories(site)[0]
    return path.is_relative_to(secrets) or (path.is_relative_to(containers) and path.parent.name == "secrets")


def test_secrets_are_where_the_engine_keeps_them(site: Site, transaction: dict[str, Any]) -> None:
    assert transaction["id"]
    mounts = json.loads(site.engine_command("container", "inspect", "--format", "{{json .Mounts}}", site.container))
    spool = [pathlib.Path(mount["Source"]) for mount in mounts if mount["Destination"] == "/var/spool/cvmfs"]
    assert spool
    found = search(site, *spool)
    assert found, "the search finds nothing, not even what is there"
    assert [item for item in found if not is_store(site, item["place"])] == []
    assert [item for item in found if int(item["mode"], 8) & 0o077] == []


def test_nothing_is_left_when_the_container_is_gone(site: Site, source: pathlib.Path) -> None:
    content = [{"source": str(source), "base_dir": "disk"}]
    (opened,) = run_tasks(site, {"cvmfs_transaction": {"sources": [str(source)]}})
    mounts = json.loads(site.engine_command("container", "inspect", "--format", "{{json .Mounts}}", site.container))
    volumes = [mount["Name"] for mount in mounts if mount["Type"] == "volume"]
    assert volumes
    (published,) = run_tasks(site, {"cvmfs_publish": {"content": content, "transaction": opened["transaction"]["id"]}})
    assert published["changed"], published
    assert not set(volumes) & set(site.engine_command("volume", "ls", "--quiet").split())
    left = [item for item in search(site) if not is_store(site, item["place"])]
    assert left == []
    shown = [item for item in search(site) if "overlay-containers" in item["place"]]
    assert shown == []


def test_configuration_can_be_read_by_all_and_written_by_its_owner(site: Site) -> None:
    """Nothing in it is secret, and users who look for a reason of trouble may look there."""
    names = ("server.conf", "client.conf", "release-manager.json", f"{site.repository}.pub")
    for name in names:
        assert (site.config / site.repository / name).stat().st_mode & 0o444 == 0o444, name
    assert [path for path in site.config.rglob("*") if path.lstat().st_mode & 0o022] == []
