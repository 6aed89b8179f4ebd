# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever step a run of the roles ends after, the next run does the rest, and the one after that finds nothing to do.

Runs are broken off after each change, one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from . import breaking_off
from .conftest import Site, running_site
from .hosts import CONNECTION, free_port, on_host, start_host
from .plays import secret_names
from .test_private_ca import Authority

pytestmark = pytest.mark.roles


@dataclasses.dataclass(frozen=True)
class Role:
    """A role in a site, as a playbook that can be broken off."""

    site: Site
    name: str
    group: str

    def __call__(self, after: int, **variables: Any) -> breaking_off.Run:
        """Run it. What is called otherwise in every site does not count where runs are compared."""
        playbook = self.site.directory / f"{self.name}.yml"
        playbook.write_text(json.dumps([{"hosts": self.group, "gather_facts": False, **self.work}]))
        command = ["ansible-playbook", "-i", "inventory.yml", str(playbook), "--extra-vars", json.dumps(variables)]
        directory, environment = self.site.directory, self.site.environment
        run = breaking_off.run(command, directory=directory, environment=environment, after=after)
        own = re.compile(f"{re.escape(self.site.repository)}|{re.escape(str(directory))}")
        return dataclasses.replace(run, changes=[own.sub("OWN", change) for change in run.changes])

    @property
    def work(self) -> dict[str, Any]:
        """What the play does."""
        return {"roles": [f"cvmfs.publishing.{self.name}"]}

    def absent(self, after: int) -> breaking_off.Run:
        """Take away what it has done."""
        return self(after, **{f"{self.name}_state": "absent"})


def storage(site: Site) -> Role:
    return Role(site, "s3_storage", "s3_storage")


def release_manager(site: Site) -> Role:
    return Role(site, "release_manager", "release_managers")


def configure(site: Site, **settings: Any) -> None:
    """Say more about the repository in the inventory."""
    s3 = {"endpoint": site.endpoint, "bucket": site.repository, "quota_bytes": 1 << 30, "cors_origins": ["*"]}
    site.write_inventory(
        s3_storage_measure=False,
        s3_storage_quota_bytes=1 << 30,
        cvmfs_repositories={site.repository: {"s3": s3, **settings}},
    )


@contextlib.contextmanager
def new_site(directory: pathlib.Path) -> Iterator[Site]:
    with running_site(directory, "podman", is_created=False) as site:
        configure(site, signing_service=True)
        try:
            yield site
        finally:
            site.engine_command("rm", "--force", "--volumes", f"cvmfs_signer-{site.repository}", check=False)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site where nothing goes wrong."""
    with new_site(tmp_path_factory.mktemp("usual")) as site:
        yield site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with new_site(tmp_path_factory.mktemp("broken-off")) as site:
        yield site


def test_storage(usual: Site, site: Site) -> None:
    expected = storage(usual)(0).expect().changes
    assert len(expected) >= 6  # users, bucket, quota, directory, credentials
    assert breaking_off.lost(expected, breaking_off.step_by_step(storage(site))) == []


def test_release_manager(usual: Site, site: Site, source: pathlib.Path) -> None:
    """It is installed, and publishes."""
    expected = release_manager(usual)(0).expect().changes
    assert len(expected) >= 10
    assert breaking_off.lost(expected, breaking_off.step_by_step(release_manager(site))) == []
    site.play("site").expect()
    assert site.play("site").expect().changed == 0
    site.publish(source, "new").expect()
    site.verify(source, "new").expect()


def test_release_manager_changes(usual: Site, site: Site, source: pathlib.Path) -> None:
    """It gets other settings and another key, and signs by itself."""
    expected = []
    for each, apply in ((usual, lambda role: role(0).expect().changes), (site, breaking_off.step_by_step)):
        configure(each, server={"CVMFS_AUTO_TAG_TIMESPAN": "6 weeks ago"}, permissions={"/": ["root"]})
        conf = each.keys / f"{each.repository}.s3.conf"
        conf.chmod(0o600)
        conf.write_text(conf.read_text() + "CVMFS_S3_TIMEOUT=20\n")  # another secret
        changes = apply(release_manager(each))
        if not expected:
            expected = changes
            assert len(expected) >= 5  # server.conf, a secret, what the modules know, the service, its place
        assert breaking_off.lost(expected, changes) == []
    assert len(secret_names(site)) == 3
    assert f"cvmfs_signer-{site.repository}" not in site.engine_command("ps", "--all", "--format", "{{.Names}}").split()
    site.publish(source, "changed").expect()


def test_release_manager_goes(usual: Site, site: Site) -> None:
    for each in (usual, site):  # with a signing service, which has to go as well
        configure(each, signing_service=True)
        storage(each)(0).expect()
        release_manager(each)(0).expect()
    expected = release_manager(usual).absent(0).expect().changes
    assert len(expected) >= 5  # the service, secrets, configuration, all configuration, the command
    assert breaking_off.lost(expected, breaking_off.step_by_step(release_manager(site).absent)) == []
    for each in (usual, site):
        assert secret_names(each) == []
        assert not each.config.exists()
        assert not each.command.exists()
        assert each.repository not in each.engine_command("ps", "--all", "--format", "{{.Names}}")


def test_release_manager_goes_after_a_change_that_was_broken_off(site: Site) -> None:
    """The signing service was to go, and the modules no longer know of it."""
    configure(site, signing_service=True)
    storage(site)(0).expect()
    release_manager(site)(0).expect()
    configure(site)
    while "Tell the modules" not in "".join(release_manager(site)(1).expect(-signal.SIGKILL).changes):
        pass
    names = ("ps", "--all", "--format", "{{.Names}}")
    assert f"cvmfs_signer-{site.repository}" in site.engine_command(*names).split()
    release_manager(site).absent(0).expect()
    assert site.repository not in site.engine_command(*names)


@dataclasses.dataclass(frozen=True)
class Frontend(Role):
    """The role on a host with systemd and nginx, in the network of this machine."""

    port: int

    def is_served(self) -> bool:
        """Whether nginx, as it runs, has read what the role has written."""
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


def site_of(host: str, directory: pathlib.Path, variables: dict[str, Any]) -> Site:
    """Return a site of one such host."""
    site = Site.without_storage(directory)
    inventory = {"all": {"hosts": {host: {**CONNECTION, **variables}}}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
    return site


@pytest.fixture(scope="module")
def frontends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Frontend]]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    found = []
    with contextlib.ExitStack() as stack:
        for kind in ("usual", "broken-off"):
            name, directory, port = start_host(stack, kind), tmp_path_factory.mktemp(kind), free_port()
            s3 = {"endpoint": "https://127.0.0.1:1", "bucket": "software", "ca_path": str(authority.certificate)}
            variables = {
                "stratum0_frontend_addresses": ["127.0.0.1"],
                "stratum0_frontend_port": port,
                "cvmfs_repositories": {"software.example.org": {"s3": s3}},
            }
            found.append(Frontend(site_of(name, directory, variables), "stratum0_frontend", name, port))
        yield found


def test_frontend(frontends: list[Frontend]) -> None:
    usual, frontend = frontends
    expected = usual(0).expect().changes
    assert len(expected) >= 5  # welcome page, directory, authorities, configuration, nginx
    assert breaking_off.lost(expected, breaking_off.step_by_step(frontend)) == []
    assert frontend.is_served()


def test_frontend_goes(frontends: list[Frontend]) -> None:
    for each in frontends:
        each(0).expect()
        assert each.is_served()
    usual, frontend = frontends
    expected = usual.absent(0).expect().changes
    assert len(expected) >= 3  # configuration, nginx, authorities
    assert breaking_off.lost(expected, breaking_off.step_by_step(frontend.absent)) == []
    assert not usual.is_served()
    assert not frontend.is_served()
    on_host(frontend.group, "systemctl", "stop", "nginx")
    on_host(frontend.group, "mkdir", "/etc/nginx/cvmfs-stratum0")
    frontend.absent(0).expect()
    assert on_host(frontend.group, "systemctl", "show", "--property=ActiveState", "nginx") == "ActiveState=inactive\n"


@dataclasses.dataclass(frozen=True)
class Manager(Role):
    """The role on a host with systemd and sshd: all of it but for what needs an engine and storage."""

    port: int

    @property
    def work(self) -> dict[str, Any]:
        parts = ("preflight", "ssh", "signers", "schedules", "oidc_schedule")
        return {
            "tasks": [
                {"ansible.builtin.include_role": {"name": "cvmfs.publishing.release_manager", "tasks_from": part}}
                for part in parts
            ]
        }

    def absent(self, after: int) -> breaking_off.Run:
        """Take everything away, by the whole role."""
        return Role(self.site, self.name, self.group).absent(after)

    def lets_in(self) -> bool:
        """Whether somebody gets in by a key of the account's own, which sshd is told to refuse, as it runs."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "-i", "/root/key", "-p", str(self.port)]
        command = ["podman", "exec", self.group, "ssh", *options, "team@127.0.0.1", "true"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def units(self) -> str:
        """What systemd knows of the role's units, and files of them."""
        units = "systemctl list-units --all --plain --no-legend 'cvmfs-*'"
        return on_host(self.group, "sh", "-c", f"{units}; find /etc/systemd /var/lib/systemd -name '*cvmfs*'")


@pytest.fixture(scope="module")
def managers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Manager]]:
    """Hosts with an account that people log in to already, by a key."""
    repository = {
        "s3": {"endpoint": "http://127.0.0.1:9", "bucket": "b"},
        "permissions": {},
        "signing_service": True,
        "schedules": {"gc": "yearly"},
    }
    issuer = {"issuer": "https://127.0.0.1:9", "audience": "x", "names": {"team": {"sub": "x"}}}
    # The command that units call: the signing service runs, and all else fails.
    script = """
        ssh-keygen -q -t ed25519 -N '' -f /root/key
        useradd --create-home --password '*' --shell /bin/sh team
        install -d -o team -m 0700 /home/team/.ssh
        install -o team -m 0600 /root/key.pub /home/team/.ssh/authorized_keys
        printf '#!/bin/sh\n[ "$1" = signer ]\n' >/usr/local/bin/cvmfs-release-manager
        chmod 0755 /usr/local/bin/cvmfs-release-manager
        echo ListenAddress 127.0.0.1:{port} >/etc/ssh/sshd_config.d/site.conf
        systemctl start ssh
    """
    found = []
    with contextlib.ExitStack() as stack:
        for kind in ("usual", "broken-off"):
            name, directory, port = start_host(stack, kind), tmp_path_factory.mktemp(kind), free_port()
            on_host(name, "sh", "-ec", script.format(port=port))
            variables = {
                "cvmfs_repositories": {"software.example.org": repository},
                "release_manager_ssh_accounts": {"team": ["team"]},
                "release_manager_ssh_ca_keys": [on_host(name, "cat", "/root/key.pub").strip()],
                "release_manager_oidc": [issuer],
                "release_manager_oidc_schedule": "yearly",
            }
            found.append(Manager(site_of(name, directory, variables), "release_manager", name, port))
        yield found


def test_logins_timers_and_services_go(managers: list[Manager]) -> None:
    usual, manager = managers
    for each in managers:
        assert each.lets_in()
        each(0).expect()
        assert not each.lets_in()
        units = each.units()
        for name in ("cvmfs-gc@", "cvmfs-oidc-keys.timer", "cvmfs-signer@"):
            assert name in units
        for service in ("cvmfs-oidc-keys.service", "cvmfs-gc@software.example.org.service"):
            with pytest.raises(subprocess.CalledProcessError):
                on_host(each.group, "systemctl", "start", service)
    expected = usual.absent(0).expect().changes
    assert len(expected) >= 12  # sshd, what it read, timers, their stamps and services, the command
    assert breaking_off.lost(expected, breaking_off.step_by_step(manager.absent)) == []
    for each in managers:
        assert each.units() == ""
        assert each.lets_in()
