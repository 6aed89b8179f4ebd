# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles ``stratum0_frontend`` and ``client``: CernVM-FS's own client, mounted by them, sees what is published.

The frontend is a host as ``tests/integration`` has them.
The client is this machine's, in a mount namespace with an ``/etc`` and a ``/cvmfs`` of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from integration.hosts import CONNECTION, free_port, start_host

from .native import NativeRepository, NewNative
from .services import Bucket

_ROOT = Path(__file__).resolve().parents[2]
_NAMESPACE = """
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" none /etc
mkdir -p /cvmfs
for directory in /cvmfs /var/lib/cvmfs /run/cvmfs; do
  mount -t tmpfs none "$directory"
  chown cvmfs: "$directory"
done
echo ready
exec sleep infinity
"""


@dataclass
class Site:
    """Hosts that are managed by playbooks.

    :param client: a process in the mount namespace of the client
    """

    directory: Path
    repository: NativeRepository
    frontend: str
    port: int
    client: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/cvmfs/{self.repository.name}"

    def play(self, **variables: Any) -> int:
        """Run the playbook ``site``; return how much of the client it has changed."""
        bucket = self.repository.url.rpartition("/")[0]
        endpoint, _, name = bucket.rpartition("/")
        values = {
            "cvmfs_keys_dir": str(self.repository.keys),
            "cvmfs_repositories": {
                self.repository.name: {"s3": {"endpoint": endpoint, "bucket": name}, "stratum0_url": self.url}
            },
            "stratum0_frontend_addresses": ["127.0.0.1"],
            "stratum0_frontend_port": self.port,
            "client_mount": "fstab",
            "client_settings": {"CVMFS_CONFIG_REPOSITORY": "", "CVMFS_NFILES": 16384},
            **variables,
        }
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory = {
            "stratum0_frontends": {"hosts": {self.frontend: CONNECTION}},
            "cvmfs_clients": {"hosts": {"client": here}},
        }
        (self.directory / "inventory.json").write_text(json.dumps(inventory))
        playbook = _ROOT / "playbooks" / "site.yml"
        extra = json.dumps(values)
        command = ["ansible-playbook", "-i", self.directory / "inventory.json", playbook, "--extra-vars", extra]
        output = self.on_client(*command)
        return int(re.search(r"^client .*changed=(\d+)", output, re.MULTILINE)[1])  # type: ignore[index]

    def on_client(self, *command: str | Path) -> str:
        """Run a command in the client's mount namespace."""
        environment = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        argv = ["nsenter", f"--target={self.client}", "--mount", *command]
        done = subprocess.run(
            argv, check=False, capture_output=True, text=True, env=environment, cwd=self.directory, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def revision(self) -> int:
        """The revision that users see."""
        return int(self.on_client("getfattr", "--only-values", "-n", "user.revision", f"/cvmfs/{self.repository.name}"))


@pytest.fixture
def site(new_native: NewNative, bucket: Bucket, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "collections" / "ansible_collections" / "cvmfs").mkdir(parents=True)
    (tmp_path / "collections" / "ansible_collections" / "cvmfs" / "publishing").symlink_to(_ROOT)
    (tmp_path / "ansible.cfg").touch()
    (tmp_path / "private").mkdir()
    with contextlib.ExitStack() as stack:
        frontend = start_host(stack, "frontend")
        command = ["unshare", "--mount", "--propagation", "private", "bash", "-euc", _NAMESPACE, "client"]
        client = stack.enter_context(subprocess.Popen([*command, tmp_path / "private"], stdout=subprocess.PIPE))
        stack.callback(client.kill)
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        made = Site(tmp_path, new_native(bucket), frontend, free_port(), client.pid)
        yield made
        made.on_client("umount", "--recursive", "--lazy", "/cvmfs")


def test_users_see_a_new_revision_through_the_frontend(site: Site, report: Callable[[str], None]) -> None:
    source = site.directory / "release"
    source.mkdir()
    (source / "file").write_text("one")
    site.repository.mirror(source, "/sw")
    fstab = site.on_client("cat", "/etc/fstab")

    assert site.play() > 0
    mount = f"/cvmfs/{site.repository.name}"
    assert site.on_client("cat", f"{mount}/sw/file") == "one"
    before = site.revision()
    assert site.play() == 0
    host = site.on_client("getfattr", "--only-values", "-n", "user.host", mount)
    assert host == site.url

    (source / "file").write_text("another")
    site.repository.mirror(source, "/sw")
    site.on_client("cvmfs_talk", "-i", site.repository.name, "remount", "sync")
    assert site.revision() == before + 1
    assert site.on_client("cat", f"{mount}/sw/file") == "another"
    report(f"mounted by the role client, read through nginx: revision {before}, then {before + 1}")

    # Changed settings reach what is mounted.
    assert site.play(client_repository_settings={site.repository.name: {"CVMFS_MAX_TTL": 7}}) == 2
    assert "CVMFS_MAX_TTL=7" in site.on_client("cvmfs_config", "showconfig", site.repository.name)
    assert site.on_client("cat", f"{mount}/sw/file") == "another"

    assert site.play(client_state="absent") > 0
    assert site.repository.name not in site.on_client("findmnt", "--list", "--output", "TARGET")
    assert site.on_client("cat", "/etc/fstab") == fstab
    assert site.on_client("find", "/etc/cvmfs", "/cvmfs", "-name", f"*{site.repository.name}*") == ""
    marked = ["grep", "-l", "cvmfs.publishing", "{}", ";"]
    assert site.on_client("find", "/etc/cvmfs", "-type", "f", "-exec", *marked) == ""
    assert site.play(client_state="absent") == 0
