# SPDX-License-Identifier: GPL-3.0-or-later
"""Which repositories the playbooks are about."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEYS = ("pub", "crt", "key")
GIVEN = {"cvmfs_keys": {"imported.example.org": dict.fromkeys(KEYS, "")}}


def chosen(directory: pathlib.Path, what: str, **variables: Any) -> list[str]:
    """Return what a playbook finds in one of the variables that playbooks share."""
    (directory / "keys").mkdir(exist_ok=True)
    everything = {"ansible_connection": "local", "cvmfs_keys_dir": str(directory / "keys"), **variables}
    (directory / "inventory.yml").write_text(json.dumps({"all": {"hosts": {"machine": everything}}}))
    copy = {"content": f"{{{{ {what} | to_json }}}}", "dest": str(directory / "chosen.json")}
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROOT / "playbooks/vars/repositories.yml")],
        "tasks": [{"ansible.builtin.copy": copy, "vars": {"ansible_python_interpreter": sys.executable}}],
    }
    (directory / "play.yml").write_text(json.dumps([play]))
    (directory / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_HOME": str(directory / "ansible"),
    }
    command = [pathlib.Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory.yml", "play.yml"]
    done = subprocess.run(command, cwd=directory, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[str] = json.loads((directory / "chosen.json").read_text())
    return found


@pytest.mark.parametrize(
    ("variables", "files", "expected"),
    [
        ({}, [], ["a.example.org"]),
        ({}, KEYS[:2], ["a.example.org"]),
        ({}, KEYS, ["a.example.org", "imported.example.org"]),
        (GIVEN, [], ["a.example.org", "imported.example.org"]),
        ({"repository": "imported.example.org"}, [], ["imported.example.org"]),
    ],
    ids=["none", "some keys", "all keys", "keys as strings", "named"],
)
def test_what_is_to_be_imported_is_left_out_without_its_keys(
    tmp_path: pathlib.Path, variables: dict[str, Any], files: list[str], expected: list[str]
) -> None:
    (tmp_path / "keys").mkdir()
    for name in files:
        (tmp_path / "keys" / f"imported.example.org.{name}").touch()
    repositories = {
        "a.example.org": {},
        "imported.example.org": {"create": False},
        "old.example.org": {"state": "absent"},
    }
    assert chosen(tmp_path, "playbook_repositories", cvmfs_repositories=repositories, **variables) == expected


@pytest.mark.parametrize("kept", [[], ["imported.example.org"]], ids=["none", "one"])
def test_what_is_to_be_imported_is_restored_if_a_backup_has_it(tmp_path: pathlib.Path, kept: list[str]) -> None:
    repositories = {
        "a.example.org": {},
        "imported.example.org": {"create": False},
        "old.example.org": {"state": "absent"},
    }
    for name in [*kept, "old.example.org"]:
        (tmp_path / "backup" / name).mkdir(parents=True)
    variables = {"cvmfs_repositories": repositories, "backup_dir": str(tmp_path / "backup")}
    assert chosen(tmp_path, "playbook_restored", **variables) == ["a.example.org", *kept]
    named = {**variables, "repository": "imported.example.org"}
    assert chosen(tmp_path, "playbook_restored", **named) == ["imported.example.org"]


def test_garbage_is_collected_where_a_release_manager_would(tmp_path: pathlib.Path) -> None:
    words = [True, False, "true", "Yes", "on", 1, "1", "false", "no", "off", 0, ""]
    repositories: dict[str, Any] = {
        f"r{number}.example.org": {"server": {"CVMFS_GARBAGE_COLLECTION": word}} for number, word in enumerate(words)
    }
    repositories |= {"none.example.org": {}, "old.example.org": {"state": "absent", **repositories["r0.example.org"]}}
    found = chosen(tmp_path, "playbook_collectable", cvmfs_repositories=repositories)
    assert [words[int(name[1:].partition(".")[0])] for name in found] == [True, "true", "Yes", "on", 1, "1"]
