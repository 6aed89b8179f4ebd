# SPDX-License-Identifier: GPL-3.0-or-later
"""The command is one file, which runs without Ansible and without the collection."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.cvmfs.publishing.plugins.modules import cvmfs_host_command

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "bin" / "cvmfs-release-manager"


@pytest.fixture
def run(path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def run_module(**parameters: Any) -> dict[str, Any]:
        arguments = {"path": str(path), "_ansible_diff": True, **parameters}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            cvmfs_host_command.main()
        return json.loads(capfd.readouterr().out)

    return run_module


def test_it_is_installed_once(run: Run, path: pathlib.Path) -> None:
    predicted = run(_ansible_check_mode=True)
    assert predicted["changed"]
    assert not path.exists()
    result = run()
    assert result["changed"]
    assert result["diff"] == predicted["diff"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert not run()["changed"]


def test_it_runs_alone(run: Run, path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run(config_dir=str(tmp_path / "configuration"))
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run([path, "status"], check=False, capture_output=True, text=True, env=environment, cwd="/")
    assert (done.stdout, done.stderr) == (f"No repositories are configured in {tmp_path}/configuration.\n", "")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"old"), lambda path: path.chmod(0o644)])
def test_another_one_is_replaced(run: Run, path: pathlib.Path, damage: Callable[[pathlib.Path], Any]) -> None:
    run()
    wanted = path.read_bytes()
    damage(path)
    assert run()["changed"]
    assert path.read_bytes() == wanted
    assert not run()["changed"]


def test_it_is_removed(run: Run, path: pathlib.Path) -> None:
    run()
    assert run(state="absent", _ansible_check_mode=True)["changed"]
    assert path.exists()
    assert run(state="absent")["changed"]
    assert not path.exists()
    assert not run(state="absent")["changed"]


def test_a_file_that_cannot_be_written(run: Run, path: pathlib.Path) -> None:
    path.parent.write_text("a file where a directory is wanted")
    result = run()
    assert result["failed"]
    assert result["msg"].startswith(f"Cannot read {path}: Not a directory")
