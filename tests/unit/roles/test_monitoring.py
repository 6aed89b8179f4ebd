# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role copies to hosts where there is no Ansible."""

from __future__ import annotations

import pathlib
import re

import yaml

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
