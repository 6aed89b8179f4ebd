# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role copies to hosts where there is no Ansible, and what it watches."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import yaml
from preflights import FQRN, REPOSITORY, preflight

ROOT = pathlib.Path(__file__).resolve().parents[3]
MODULE_UTILS = ROOT / "plugins/module_utils"


def test_what_is_copied_is_what_is_imported() -> None:
    variables = yaml.safe_load((ROOT / "roles/monitoring/vars/main.yml").read_text())
    needed, waiting = set(), ["_metrics"]
    while waiting:
        module = waiting.pop()
        needed.add(f"{module}.py")
        text = (MODULE_UTILS / f"{module}.py").read_text()
        assert "import ansible" not in text
        assert "from ansible.module_utils" not in text
        imported = re.findall(r"^from ansible_collections\.cvmfs\.publishing\.plugins\.module_utils\.(\w+)", text, re.M)
        waiting += [name for name in imported if f"{name}.py" not in needed]
    assert sorted(needed) == variables["_monitoring_modules"]


def test_repositories_that_are_to_go_are_not_watched(tmp_path: pathlib.Path) -> None:
    repositories = {FQRN: {**REPOSITORY, "state": "present"}, "old.example.org": {"state": "absent"}}
    watched = f"_monitoring_targets | map(attribute='repository') == ['{FQRN}']"
    assert preflight(tmp_path, "monitoring", watched, monitoring_repositories=repositories) == ""


def test_the_quota_of_the_example_is_known_where_the_repositories_are_watched() -> None:
    command = [pathlib.Path(sys.executable).with_name("ansible-inventory"), "-i", ROOT / "inventories/example"]
    for host in ("ceph-admin.example.org", "mon1.example.org"):
        done = subprocess.run([*command, "--host", host], check=True, capture_output=True)
        assert json.loads(done.stdout)["s3_storage_quota_bytes"] == 10 << 40
