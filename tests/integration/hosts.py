# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts for roles that configure services: containers with systemd, in the network of the machine."""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import socket
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from .conftest import Run, Site

IMAGE = "localhost/cvmfs-test-host"
# Nothing is to start by itself, such as nginx with a welcome page at a port of the whole machine.
CONTAINERFILE = """\
FROM localhost/cvmfs-debian-base:trixie
RUN printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d && chmod 0755 /usr/sbin/policy-rc.d \\
 && apt-get update \\
 && apt-get install -y --no-install-recommends dbus nginx openssh-server python3 sudo systemd systemd-sysv \\
 && systemctl disable nginx ssh \\
 && systemctl mask dev-hugepages.mount sys-fs-fuse-connections.mount systemd-udevd.service systemd-logind.service \\
        console-getty.service getty.target systemd-networkd.service apt-daily.timer apt-daily-upgrade.timer
STOPSIGNAL SIGRTMIN+3
CMD ["/lib/systemd/systemd"]
"""
# How Ansible gets there
CONNECTION = {"ansible_connection": "containers.podman.podman", "ansible_python_interpreter": "/usr/bin/python3"}
# Names in the kernel, each for a port, that are this process's until it ends
_CLAIMS: list[socket.socket] = []


def start_host(stack: contextlib.ExitStack, kind: str) -> str:
    """Have a host until the `stack` is left; return the name of its container."""
    build = ["podman", "build", "-q", "-t", IMAGE, "-f", "-"]
    subprocess.run(build, input=CONTAINERFILE, text=True, check=True, stdout=subprocess.DEVNULL)
    name = f"cvmfs-test-{kind}-{uuid.uuid4().hex[:8]}"
    options = ["--network=host", "--systemd=always", "--cap-add=SYS_ADMIN", f"--hostname={name}"]
    stack.callback(subprocess.run, ["podman", "rm", "-f", "-t0", name], check=False, capture_output=True)
    subprocess.run(["podman", "run", "-d", "--name", name, *options, IMAGE], check=True, stdout=subprocess.DEVNULL)
    with contextlib.suppress(subprocess.CalledProcessError):  # "degraded" is good enough
        on_host(name, "systemctl", "is-system-running", "--wait")
    return name


def on_host(name: str, *command: str) -> str:
    """Run a command on a host, and return what it prints."""
    return subprocess.run(["podman", "exec", name, *command], check=True, capture_output=True, text=True).stdout


def play_on(
    site: Site, group: str, hosts: dict[str, dict[str, Any]], *options: str, playbook: str = "site", **variables: Any
) -> Run:
    """Run a playbook for these hosts alone, which are the group; `variables` are theirs besides those of each."""
    inventory = {group: {"hosts": hosts, "vars": {**CONNECTION, **variables}}}
    (site.directory / f"{group}.yml").write_text(yaml.safe_dump(inventory))
    return site.play(playbook, "-i", f"{group}.yml", "--limit", group, *options)


def write_play(directory: pathlib.Path, *parts: str) -> str:
    """Write a playbook that has these parts of the role release_manager done; return how `play_on` knows it."""
    role = "cvmfs.publishing.release_manager"
    tasks = [{"ansible.builtin.include_role": {"name": role, "tasks_from": part}} for part in parts]
    play = [{"hosts": "release_managers", "gather_facts": False, "tasks": tasks}]
    (directory / "parts.yml").write_text(json.dumps(play))
    return str(directory / "parts")


def free_port() -> int:
    """Return a port of the loopback interface that nobody has, and no test gets once more, in whatever process.

    It is none of those that the kernel gives to who wants any.
    """
    while True:
        port = random.randrange(20000, 32768)  # noqa: S311 (it is no secret)
        claim = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            claim.bind(f"\0cvmfs-test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
            _CLAIMS.append(claim)
            return port
        claim.close()
