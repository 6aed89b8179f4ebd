# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role client writes on a host. That CernVM-FS's client can read it is shown in tests/interop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from . import breaking_off
from .conftest import Run, Site
from .hosts import on_host, play_on, start_host

pytestmark = pytest.mark.roles

CONF = "/etc/cvmfs"


@dataclasses.dataclass
class Client:
    """A host without CernVM-FS's own client, whose package is not to be had here."""

    site: Site
    host: str

    def configure(self, *options: str, **variables: Any) -> Run:
        """Run the playbook `site` for this host alone; `variables` are what differs from the defaults."""
        common = {
            "cvmfs_keys_dir": str(self.site.keys),
            "cvmfs_repositories": {
                "software.example.org": {"stratum0_url": "http://stratum0.example.org/cvmfs/software.example.org"}
            },
            "client_mount": "none",
            **variables,
        }
        return play_on(self.site, "cvmfs_clients", {self.host: {}}, *options, **common)

    def read(self, path: str) -> dict[str, str]:
        """Return what a shell finds in a file of settings, which is how the client reads it."""
        script = f"set -a; . {path}; env -0"
        output = on_host(self.host, "env", "-i", "bash", "-c", script)
        return dict(line.split("=", 1) for line in output.split("\0") if line)


@contextlib.contextmanager
def new_client(directory: pathlib.Path) -> Iterator[Client]:
    site = Site.without_storage(directory)
    site.keys.mkdir()
    (site.keys / "software.example.org.pub").write_text("a public key\n")
    with contextlib.ExitStack() as stack:
        made = Client(site, start_host(stack, "client"))
        on_host(made.host, "mkdir", "-p", CONF)
        on_host(made.host, "sh", "-c", f"echo CVMFS_CACHE_BASE=/cache >{CONF}/default.local")
        yield made


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with new_client(tmp_path_factory.mktemp("client")) as made:
        yield made


@pytest.mark.parametrize("mount", ["autofs", "fstab"])
def test_on_a_fresh_host_it_is_predicted(client: Client, mount: str) -> None:
    """The client and what mounts it are to be installed, and nothing is there yet."""
    run = client.configure("--check", "--diff", client_mount=mount, client_install=True).expect()
    assert "The packages cvmfs or autofs are to be installed" in run.output
    assert ("/etc/auto.cvmfs" if mount == "autofs" else "/cvmfs/software.example.org") in run.output
    assert run.changed > 0
    traces = "find /etc -iname '*cvmfs*'; grep -s cvmfs /etc/fstab; ls -d /cvmfs 2>/dev/null || true"
    assert on_host(client.host, "sh", "-c", traces) == f"{CONF}\n"


def test_settings_are_what_a_shell_reads(client: Client) -> None:
    variables = {
        "client_http_proxy": "http://squid1:3128|http://squid2:3128;DIRECT",
        "client_settings": {"CVMFS_QUOTA_LIMIT": 20000, "CVMFS_USE_GEOAPI": True, "CVMFS_CONFIG_REPOSITORY": ""},
        "client_environment": {"CMS_LOCAL_SITE": "/etc/site conf/$HOME"},
        "client_domain_settings": {"example.org": {"CVMFS_TIMEOUT": 7}},
        "client_repository_settings": {"software.example.org": {"CVMFS_MAX_TTL": 5}},
    }
    assert client.configure("--check", **variables).expect().changed > 0
    assert on_host(client.host, "find", CONF, "-type", "f") == f"{CONF}/default.local\n"
    client.configure(**variables).expect()
    default = client.read(f"{CONF}/default.local")
    assert default["CVMFS_CACHE_BASE"] == "/cache"  # what somebody else has written
    assert default["CVMFS_HTTP_PROXY"] == variables["client_http_proxy"]
    assert default["CVMFS_QUOTA_LIMIT"] == "20000"
    assert default["CVMFS_USE_GEOAPI"] == "yes"
    assert default["CVMFS_CONFIG_REPOSITORY"] == ""
    assert default["CMS_LOCAL_SITE"] == "/etc/site conf/$HOME"
    assert client.read(f"{CONF}/domain.d/example.org.local")["CVMFS_TIMEOUT"] == "7"
    own = client.read(f"{CONF}/config.d/software.example.org.local")
    assert own["CVMFS_MAX_TTL"] == "5"
    assert own["CVMFS_SERVER_URL"] == "http://stratum0.example.org/cvmfs/software.example.org"
    assert on_host(client.host, "cat", own["CVMFS_PUBLIC_KEY"]) == "a public key\n"
    assert client.configure("--check", "--diff", **variables).expect().changed == 0
    assert client.configure(**variables).expect().changed == 0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"client_settings": {"QUOTA": 1}}, "does not begin with CVMFS_"),
        ({"client_environment": {"A-B": "x"}}, "no environment variable can have"),
        ({"client_repositories": {"software": {}}}, "not a fully qualified repository name"),
        ({"client_mount": "autofs"}, "cvmfs"),
    ],
)
def test_what_cannot_work_is_refused(client: Client, variables: dict[str, Any], message: str) -> None:
    run = client.configure(**variables).expect(2)
    assert message in run.output


@pytest.fixture(scope="module")
def mounted(client: Client) -> Client:
    """A host on which the repository is mounted, or looks so, and a command notes what it is asked for, or fails."""
    program = """#!/bin/sh
echo "$*" >>/root/asked
! test -e /root/fails
"""
    command = "cat >/usr/bin/cvmfs_config && chmod 0755 /usr/bin/cvmfs_config"
    subprocess.run(["podman", "exec", "-i", client.host, "sh", "-c", command], input=program, text=True, check=True)
    client.configure().expect()
    place = "/cvmfs/software.example.org"
    on_host(client.host, "mkdir", "-p", place)
    on_host(client.host, "mount", "-t", "tmpfs", "cvmfs2", place)
    return client


def asked(client: Client) -> list[str]:
    """What cvmfs_config has been asked for since the last look."""
    return on_host(client.host, "sh", "-c", "touch /root/asked; cat /root/asked; rm /root/asked").splitlines()


CHANGES = {
    "client_repository_settings": {"software.example.org": {"CVMFS_MAX_TTL": 7}},
    "client_settings": {"CVMFS_TIMEOUT": 8},
    "client_domain_settings": {"example.org": {"CVMFS_TIMEOUT": 9}},
    "client_keys": {"software.example.org": {"pub": "another key"}},
}


def test_what_is_mounted_reads_what_was_changed_and_is_left_alone_otherwise(mounted: Client) -> None:
    variables: dict[str, Any] = {}
    for name, value in CHANGES.items():
        assert mounted.configure(**variables).expect().changed == 0
        assert asked(mounted) == []
        variables[name] = value
        assert mounted.configure("--check", **variables).expect().changed == 2  # the file, and who is to read it
        assert asked(mounted) == []
        assert mounted.configure(**variables).expect().changed == 2
        assert asked(mounted) == ["reload software.example.org"]


def test_what_was_not_read_is_read_by_the_next_run(mounted: Client) -> None:
    time.sleep(1.1)  # times are compared by seconds
    on_host(mounted.host, "touch", "/root/fails")
    mounted.configure().expect(2)
    on_host(mounted.host, "rm", "/root/fails")
    assert mounted.configure().expect().changed == 1
    assert mounted.configure().expect().changed == 0
    assert asked(mounted) == ["reload software.example.org"] * 2


def test_it_is_taken_away_again(client: Client) -> None:
    client.configure().expect()
    client.configure(client_state="absent").expect()
    assert client.read(f"{CONF}/default.local")["CVMFS_CACHE_BASE"] == "/cache"
    assert on_host(client.host, "find", CONF, "-name", "*.example.org*") == ""
    assert "cvmfs.publishing" not in on_host(client.host, "cat", f"{CONF}/default.local")
    assert client.configure(client_state="absent").expect().changed == 0


@pytest.fixture(scope="module")
def mounting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A host with autofs, and something that mounts as the client does."""
    script = """
        apt-get update && apt-get install -y --no-install-recommends autofs
        printf '#!/bin/sh\nexec mount -t tmpfs cvmfs2 "$2"\n' >/sbin/mount.cvmfs
        printf '#!/bin/sh\n[ "$1" = software.example.org ] && echo -fstype=tmpfs :cvmfs2\n' >/etc/auto.cvmfs
        touch /usr/bin/cvmfs2
        chmod 0755 /sbin/mount.cvmfs /etc/auto.cvmfs
    """
    with new_client(tmp_path_factory.mktemp("mounting")) as made:
        on_host(made.host, "sh", "-ec", script)
        yield made


@pytest.mark.parametrize("mount", ["autofs", "fstab"])
def test_what_is_mounted_goes_whatever_step_its_removal_ends_after(mounting: Client, mount: str) -> None:
    place = "/cvmfs/software.example.org"
    mounting.configure(client_mount=mount).expect()
    on_host(mounting.host, "ls", place)
    assert place in on_host(mounting.host, "findmnt", "--list", "--noheadings", "--output", "TARGET")
    inventories = ["-i", "inventory.yml", "-i", "cvmfs_clients.yml", "--limit", "cvmfs_clients"]
    variables = ["--extra-vars", json.dumps({"client_state": "absent"})]
    command = ["ansible-playbook", *inventories, "cvmfs.publishing.site", *variables]
    directory, environment = mounting.site.directory, mounting.site.environment
    breaking_off.step_by_step(
        lambda after: breaking_off.run(command, directory=directory, environment=environment, after=after)
    )
    end = time.monotonic() + 30  # autofs takes its time
    while "/cvmfs" in (found := on_host(mounting.host, "findmnt", "--list", "--noheadings", "--output", "TARGET")):
        assert time.monotonic() < end, found
        time.sleep(1)
    assert "cvmfs" not in on_host(mounting.host, "cat", "/etc/fstab")
    assert on_host(mounting.host, "sh", "-c", f"ls -d {place} 2>/dev/null || true") == ""
