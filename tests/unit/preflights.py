# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the part of a role that only looks: whether it takes the variables, and what follows from them."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
FQRN = "software.example.org"
REPOSITORY = {"s3": {"endpoint": "https://s3.example.org", "bucket": "software"}}


def preflight(
    directory: pathlib.Path, role: str, *conditions: str, os_family: str | None = None, **variables: Any
) -> str:
    """Run tasks/preflight.yml of a role for this machine, then see that the conditions hold; "" or what it says.

    `variables` are the inventory's; `directory` is empty. With `os_family`, the machine is taken for one of these.
    """
    link = directory / "collections/ansible_collections/cvmfs/publishing"
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT)
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "cvmfs_keys_dir": "/nowhere"}
    inventory = {"all": {"hosts": {"machine": {**common, **variables}}}}
    (directory / "inventory.yml").write_text(json.dumps(inventory))
    gathered = {"gather_subset": ["!all", "!min", "distribution", "service_mgr", "user"]}  # what roles would gather
    taken = {"ansible_os_family": os_family, "cacheable": True}
    tasks = [
        *([{"ansible.builtin.setup": gathered}, {"ansible.builtin.set_fact": taken}] if os_family else []),
        {"ansible.builtin.import_role": {"name": f"cvmfs.publishing.{role}", "tasks_from": "preflight"}},
        {"ansible.builtin.assert": {"that": ["true", *conditions]}},
    ]
    play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
    (directory / "play.yml").write_text(json.dumps(play))
    (directory / "ansible.cfg").touch()
    done = subprocess.run(
        [pathlib.Path(sys.executable).with_name("ansible-playbook"), "--check", "-i", "inventory.yml", "play.yml"],
        cwd=directory,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(directory / "collections"),
            "ANSIBLE_HOME": str(directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
        },
        check=False,
        text=True,
        capture_output=True,
    )
    return "" if done.returncode == 0 else " ".join((done.stdout + done.stderr).split())
