# SPDX-License-Identifier: GPL-3.0-or-later
"""People edit a repository in place with `cvmfs-release-manager`, on a terminal that may be lost."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import Site
from .terminal import Terminal

pytestmark = pytest.mark.parametrize("site", ["podman"], indirect=True)
QUESTION = "back to the shell? "


@pytest.fixture(scope="module")
def command(site: Site) -> list[str]:
    """The command as the role installs it."""
    return [str(site.command)]


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    """No transaction outlives a test."""
    yield
    left = site.has_container()
    site.manager("cvmfs_transaction", state="aborted", force=True)
    assert not left


def run(command: list[str], *arguments: str, rc: int = 0, cwd: pathlib.Path | None = None) -> str:
    """Run the command without a terminal; all that it prints."""
    done = subprocess.run(
        [*command, *arguments],
        check=False,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == rc, done.stdout
    return done.stdout


def status(site: Site, command: list[str]) -> dict[str, object]:
    """What the command says about the site's repository."""
    (found,) = json.loads(run(command, "status", "--json", site.repository))["repositories"]
    return found


def test_edit_and_publish(site: Site, command: list[str]) -> None:
    before = site.revision()
    with Terminal([*command, "shell", site.repository]) as terminal:
        terminal.expect(f"/cvmfs/{site.repository} is writable")
        terminal.type('echo $((6*7)) >answer; pwd; echo "<$(cat answer)>"')
        assert f"/cvmfs/{site.repository}" in terminal.expect("<42>")
        terminal.type("exit")
        assert "1 added" in terminal.expect(QUESTION)
        terminal.type("publish first-edit")
        terminal.expect("revision")
        assert terminal.end() == 0
    assert site.revision() == before + 1
