# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After a power cut: the signing service is there again, with the key, and has signed what was published since.

It signs for those who log in to publish, too.
"""

from __future__ import annotations

import os
import shlex
import urllib.request

import pytest
import testinfra
from testinfra.host import Host

REPOSITORY = "molecule.example.org"
URL = f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/cvmfs-molecule-signer/{REPOSITORY}"
SIGNER = f"cvmfs_signer-{REPOSITORY}"


@pytest.fixture(scope="module")
def host() -> Host:
    return testinfra.get_host("podman://cvmfs-molecule-signer")


def podman(host: Host, *arguments: str) -> str:
    """Run the service user's podman; its output."""
    uid = host.user("cvmfs-molecule").uid
    session = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "--reset-env"]
    words = [*session, "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", "podman", *arguments]
    return str(host.check_output(f"cd / && {shlex.join(words)} 2>&1"))


def manifest() -> list[bytes]:
    with urllib.request.urlopen(f"{URL}/.cvmfspublished") as answer:  # noqa: S310
        content: bytes = answer.read()
    return content.splitlines()


def by_ssh(*command: str) -> str:
    """The command line that logs in with a certificate and asks for `command`."""
    options = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
    words = ["ssh", "-F", "none", "-i", "/root/ssh/somebody", "-p", "22622", *(f"-o{option}" for option in options)]
    return shlex.join([*words, "cvmfs-people@127.0.0.1", shlex.join(["cvmfs-release-manager", *command])])


def test_everything_is_published() -> None:
    assert b"S3" in manifest()  # created, published, published after the power cut


def test_it_starts_with_the_host(host: Host) -> None:
    unit = host.service(f"cvmfs-signer@{REPOSITORY}.service")
    assert unit.is_enabled
    assert unit.is_running


def test_it_alone_is_left_and_has_signed(host: Host) -> None:
    assert podman(host, "ps", "--all", "--format", "{{.Names}}").split() == [SIGNER]
    log = podman(host, "logs", SIGNER)
    assert f" signing {REPOSITORY} with certificate " in log
    assert f" signed {REPOSITORY} revision 3, " in log
    assert " refused " not in log


def test_it_has_the_key(host: Host) -> None:
    keys = podman(host, "exec", SIGNER, "ls", "/etc/cvmfs/keys").split()
    assert keys == [f"{REPOSITORY}.{suffix}" for suffix in ("crt", "key", "pub")]


def test_the_socket_is_for_the_service_user(host: Host) -> None:
    directory = host.file(f"/etc/cvmfs-publishing/{REPOSITORY}/signer")
    assert (directory.user, directory.mode) == ("cvmfs-molecule", 0o700)
    assert host.file(f"{directory.path}/socket").mode == 0o600


def test_it_signs_for_people_who_log_in(host: Host) -> None:
    pack = "tar --create --directory=/srv/site ."
    refused = host.run(f"{pack} | {by_ssh('ingest', f'{REPOSITORY}/software')}")
    assert refused.rc != 0
    assert f"may not publish at {REPOSITORY}/software, but below {REPOSITORY}/people" in refused.stderr
    assert b"S3" in manifest()
    host.check_output(f"{pack} | {by_ssh('ingest', f'{REPOSITORY}/people/somebody')}")
    assert b"S4" in manifest()
    assert f" signed {REPOSITORY} revision 4, " in podman(host, "logs", SIGNER)


def test_people_who_log_in_cannot_reach_it_themselves(host: Host) -> None:
    assert f"{REPOSITORY}: revision " in host.check_output(by_ssh("status"))
    refused = host.run(f"runuser -u cvmfs-people -- ls /etc/cvmfs-publishing/{REPOSITORY}/signer")
    assert "Permission denied" in refused.stderr
