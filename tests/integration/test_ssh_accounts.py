# SPDX-License-Identifier: GPL-3.0-or-later
"""What sshd is told of accounts for SSH certificates, and when. That they let people in, molecule/removal shows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Run, Site
from .hosts import free_port, on_host, play_on, start_host, write_play

pytestmark = pytest.mark.roles

SSHD = "/etc/ssh/sshd_config.d/00-cvmfs-publishing.conf"
AUTHORITY = "/etc/ssh/cvmfs-publishing/ca.pub"
ACCOUNTS = {"cvmfs-atlas": ["atlas"]}
# The tasks that deal with it, as tasks/main.yml has them
PARTS = ("preflight", "{{ 'ssh' if release_manager_ssh_accounts else 'ssh_absent' }}")


@dataclasses.dataclass
class Server:
    """A host with sshd, which lets nobody in but on its loopback interface."""

    site: Site
    play: str
    host: str
    authority: str

    def configure(self, *options: str, **variables: Any) -> Run:
        """Run the tasks; `variables` are what differs from one account."""
        common = {
            "cvmfs_repositories": {
                "software.example.org": {"s3": {"endpoint": "http://127.0.0.1:9", "bucket": "b"}, "permissions": {}}
            },
            "release_manager_ssh_accounts": ACCOUNTS,
            "release_manager_ssh_ca_keys": [self.authority],
            **variables,
        }
        return play_on(self.site, "release_managers", {self.host: {}}, *options, playbook=self.play, **common)

    def state(self) -> tuple[str, str]:
        """The process that sshd is, and when systemd has last started or reloaded it."""
        properties = ["--property=MainPID", "--property=StateChangeTimestampMonotonic"]
        pid, when = on_host(self.host, "systemctl", "show", "--value", *properties, "ssh.service").split()
        return pid, when

    def files(self) -> str:
        """What sshd is told, and who has been told so."""
        return on_host(self.host, "sh", "-c", f"cat {SSHD} {AUTHORITY} /etc/ssh/cvmfs-publishing/principals/* || true")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host that the role has never been on; each test goes on where the one before has stopped."""
    site = Site.without_storage(tmp_path_factory.mktemp("ssh"))
    play = write_play(site.directory, *PARTS)
    with contextlib.ExitStack() as stack:
        host = start_host(stack, "ssh")
        on_host(host, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "of a test", "-f", "/root/ca")
        on_host(host, "sh", "-c", f"echo ListenAddress 127.0.0.1:{free_port()} >/etc/ssh/sshd_config.d/site.conf")
        on_host(host, "systemctl", "start", "ssh")
        yield Server(site, play, host, on_host(host, "cat", "/root/ca.pub").strip())


def test_it_is_predicted_and_done_once(server: Server) -> None:
    before = server.state()
    predicted = server.configure("--check", "--diff").expect()
    assert (server.files(), server.state()) == ("", before)
    done = server.configure().expect()
    assert done.changed == predicted.changed
    (pid, when) = server.state()
    assert (pid, when != before[1]) == (before[0], True)  # it has read it, and goes on
    for options in ((), ("--check",)):
        assert server.configure(*options).expect().changed == 0
        assert server.state() == (pid, when)


def test_sshd_reads_what_was_changed_for_it_and_is_left_alone_otherwise(server: Server) -> None:
    before = server.state()
    principals = {"cvmfs-atlas": ["atlas", "nightly"]}  # which it reads at each login
    assert server.configure(release_manager_ssh_accounts=principals).expect().changed == 1
    assert server.state() == before
    two = {**ACCOUNTS, "cvmfs-cms": ["cms"]}
    assert server.configure("--check", release_manager_ssh_accounts=two).expect().changed > 0
    assert server.state() == before
    server.configure(release_manager_ssh_accounts=two).expect()
    assert "Match User cvmfs-atlas,cvmfs-cms\n" in server.files()
    assert (server.state()[0], server.state()[1] != before[1]) == (before[0], True)
    server.configure().expect()


def test_what_sshd_would_refuse_does_not_get_there(server: Server) -> None:
    before = server.files(), server.state()
    settings = json.dumps({"_release_manager_sshd_settings": {"ForceCommand": "true", "NoSuchSetting": "yes"}})
    assert "NoSuchSetting" in server.configure("--extra-vars", settings).expect(2).output
    assert (server.files(), server.state()) == before
    damaged = server.authority.replace("AAAAC3", "AAAAC4")
    assert "failed to validate" in server.configure(release_manager_ssh_ca_keys=[damaged]).expect(2).output
    assert (server.files(), server.state()) == before


def test_what_a_run_has_written_that_was_broken_off_is_read(server: Server) -> None:
    (pid, before) = server.state()
    time.sleep(1.1)  # times are compared by seconds
    on_host(server.host, "touch", SSHD)
    assert server.configure("--check").expect().changed == 1
    assert server.state() == (pid, before)
    assert server.configure().expect().changed == 1
    after = server.state()
    assert after != (pid, before)
    assert server.configure().expect().changed == 0
    assert server.state() == after


def test_it_is_taken_away_from_sshd(server: Server) -> None:
    (pid, before) = server.state()
    server.configure(release_manager_ssh_accounts={}).expect()
    assert server.files() == ""
    after = server.state()
    assert (after[0], after[1] != before) == (pid, True)
    assert server.configure(release_manager_ssh_accounts={}).expect().changed == 0
    assert server.state() == after


def test_an_sshd_that_was_stopped_stays_so(server: Server) -> None:
    server.configure().expect()
    on_host(server.host, "systemctl", "stop", "ssh")
    try:
        server.configure(release_manager_ssh_accounts={}).expect()
        assert server.state()[0] == "0"
        assert "has to have sudo, and sshd, which has to run" in server.configure().expect(2).output.replace("\n", " ")
        assert server.files() == ""
    finally:
        on_host(server.host, "systemctl", "start", "ssh")
