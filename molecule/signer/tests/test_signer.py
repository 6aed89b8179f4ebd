# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""After a power cut: the signing service is there again, with the key, and has signed what was published since."""

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


def test_everything_is_published() -> None:
    with urllib.request.urlopen(f"{URL}/.cvmfspublished") as answer:  # noqa: S310
        assert b"S3" in answer.read().splitlines()  # created, published, published after the power cut


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
