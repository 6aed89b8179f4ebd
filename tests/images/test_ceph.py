# SPDX-License-Identifier: GPL-3.0-or-later
"""The role ceph_single_node with its image: S3 answers, on loopback only, and nothing is left behind."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from conftest import CHECKOUT, Engine

PLAY = [{"hosts": "localhost", "gather_facts": False, "roles": [{"role": "cvmfs.publishing.ceph_single_node"}]}]
Run = Callable[..., dict[str, int]]


@pytest.fixture
def port() -> int:
    """A free port on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def role(tmp_path: pathlib.Path, podman: Engine, port: int) -> Iterator[Run]:
    """Apply the role; how many tasks were ok, changed and failed is returned."""
    collections = tmp_path / "collections/ansible_collections/cvmfs"
    collections.mkdir(parents=True)
    (collections / "publishing").symlink_to(CHECKOUT)
    playbook = tmp_path / "playbook.yml"
    playbook.write_text(json.dumps(PLAY))

    def run(*options: str, **variables: object) -> dict[str, int]:
        names = {"container": f"{podman.prefix}-ceph", "port": port, "size": "1G"} | variables
        extra = {f"ceph_single_node_{name}": value for name, value in names.items()}
        environment = os.environ | {
            "ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        process = subprocess.run(
            [
                str(pathlib.Path(sys.executable).parent / "ansible-playbook"),
                *("-i", "localhost,", "-c", "local", *options),
                *("-e", json.dumps(extra | {"ansible_python_interpreter": sys.executable}), str(playbook)),
            ],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
        )
        result = json.loads(process.stdout)
        return dict(result["stats"]["localhost"]) | {"output": process.stdout}

    yield run
    run(state="absent")


def s3_answers(port: int, address: str = "127.0.0.1") -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=5) as answer:
            return b"ListAllMyBucketsResult" in answer.read()
    except OSError:
        return False


def test_comes_stays_and_goes(role: Run, podman: Engine, port: int) -> None:
    assert role("--check")["changed"] == 1
    assert not s3_answers(port)
    assert role()["changed"] == 1
    assert s3_answers(port)
    assert role()["changed"] == 0
    volume = podman.output("inspect", "--format", "{{(index .Mounts 0).Name}}", f"{podman.prefix}-ceph")
    assert podman("volume", "exists", volume, check=False).returncode == 0

    podman.output("stop", f"{podman.prefix}-ceph")
    assert role("--check")["changed"] == 1
    assert role()["changed"] == 1
    assert s3_answers(port)

    assert role("--check", state="absent")["changed"] == 1
    assert s3_answers(port)
    assert role(state="absent")["changed"] == 1
    assert not s3_answers(port)
    assert role(state="absent")["changed"] == 0
    assert podman("volume", "exists", volume, check=False).returncode == 1


def test_is_confined_and_listens_on_loopback_only(role: Run, podman: Engine, port: int) -> None:
    role()
    container = f"{podman.prefix}-ceph"
    assert podman.output("port", container) == f"8480/tcp -> 127.0.0.1:{port}"
    status = podman.output(
        "exec", container, "sh", "-c", "cat $(dirname $(grep -l ^radosgw /proc/[0-9]*/cmdline))/status"
    )
    assert "\nCapEff:\t0000000000000000\n" in status
    assert "\nUid:\t0\t" not in status
    private = podman.output("exec", container, "find", "/var/lib/ceph", "-name", "*keyring*", "-perm", "/077")
    assert private == ""


def test_bluestore_keeps_objects_over_a_new_container(role: Run, podman: Engine) -> None:
    container = f"{podman.prefix}-ceph"
    admin = ["exec", container, "radosgw-admin", "user"]
    role(objectstore="bluestore")
    podman.output(*admin, "create", "--uid=kept", "--display-name=kept")
    assert role(objectstore="bluestore", labels={"changed": "a b"})["changed"] == 2
    assert podman.output("inspect", "--format", '{{index .Config.Labels "changed"}}', container) == "a b"
    assert '"kept"' in podman.output(*admin, "list")


def test_port_in_use_is_told_and_leaves_nothing(role: Run, podman: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        result = role(port=server.getsockname()[1])
    assert result["failures"] == 1
    assert "set ceph_single_node_port" in str(result["output"])
    assert podman("container", "exists", f"{podman.prefix}-ceph", check=False).returncode == 1
