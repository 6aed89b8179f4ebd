# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Writes into the file of its argument what is on a host: files, users, subordinate IDs, engine secrets, and timers."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

# What a running system writes anyway, and what belongs to Ansible (/root) and to the engine itself
PASSING = ("/dev", "/proc", "/sys", "/tmp", "/var/backups", "/var/cache", "/var/lib/apt", "/var/lib/dpkg", "/var/log")  # noqa: S108
ENGINE = ("/root", "/var/lib/containers", "/run")
# What tools of the system keep of their last change, and where systemd makes a note when it first has one
KEPT = {f"/etc/{name}-" for name in ("group", "gshadow", "passwd", "shadow", "subgid", "subuid")}
KEPT |= {"/var/lib/systemd/linger", "/var/lib/systemd/timers"}
# What is mounted, which changes with the containers that run
KEPT |= {"/etc/mtab"}


def skipped(path: str) -> bool:
    name = os.path.basename(path)
    return path.startswith((*PASSING, *ENGINE)) or name == "__pycache__" or name.startswith("systemd-private-")


def described(path: str) -> str:
    """What is configured counts by its content, too."""
    if path.startswith("/etc/") and os.path.isfile(path):
        return f"{path} {hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()}"
    return path


paths = []
for root, directories, files in os.walk("/"):
    directories[:] = [name for name in directories if not skipped(os.path.join(root, name))]
    paths += [os.path.join(root, name) for name in directories + files]
secrets = ["podman", "secret", "ls", "--format", "{{.Name}}"]
timers = ["systemctl", "list-timers", "--all", "--output=json"]
found = {
    "paths": sorted(described(path) for path in set(paths) - KEPT),
    "users": pathlib.Path("/etc/passwd").read_text().splitlines(),
    "subordinate": pathlib.Path("/etc/subuid").read_text().splitlines(),
    "secrets": subprocess.run(secrets, check=True, capture_output=True, text=True).stdout.split(),
    "timers": sorted(
        timer["unit"] for timer in json.loads(subprocess.run(timers, check=True, capture_output=True).stdout)
    ),
}
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
