# SPDX-License-Identifier: GPL-3.0-or-later
"""What people who have logged in by SSH may ask for."""

from __future__ import annotations

import os
import sys

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The programs that took the place of this one."""
    programs: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/cvmfs-release-manager", "login"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "execv", lambda path, argv: programs.append([path, *argv]))
    return programs


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("cvmfs-release-manager status", ["status"]),
        ("cvmfs-release-manager  ingest 'sw.example.org/a b'", ["ingest", "sw.example.org/a b"]),
        ("cvmfs-release-manager status; id", ["status;", "id"]),
        ("cvmfs-release-manager status $(id) `id` | id", ["status", "$(id)", "`id`", "|", "id"]),
        (
            "cvmfs-release-manager run sw.example.org -- make install",
            ["run", "sw.example.org", "--", "make", "install"],
        ),
    ],
)
def test_no_shell_sees_it(
    called: list[list[str]], monkeypatch: pytest.MonkeyPatch, line: str, arguments: list[str]
) -> None:
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", line)
    _host_command.main(["login"])
    sudo = ["/usr/bin/sudo", "/usr/bin/sudo", "--non-interactive", "--"]
    assert called == [[*sudo, "/usr/local/bin/cvmfs-release-manager", *arguments]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (None, "This account is for cvmfs-release-manager and nothing else. Such as: ssh ACCOUNT@HOST"),
        ("", "nothing else"),
        ("id", "nothing else"),
        ("/usr/local/bin/cvmfs-release-manager status", "nothing else"),
        ("cvmfs-release-manager", "nothing else"),
        ("cvmfs-release-manager login", "nothing else"),
        ("cvmfs-release-manager -h", "nothing else"),
        ("cvmfs-release-manager --config-dir=/tmp status", "nothing else"),
        ("cvmfs-release-manager -- status", "nothing else"),
        ("cvmfs-release-manager '' status", "nothing else"),
        (
            "cvmfs-release-manager status 'x",
            "What was asked for cannot be read: No closing quotation. See to the quotes",
        ),
    ],
)
def test_nothing_else(
    called: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str | None,
    message: str,
) -> None:
    monkeypatch.delenv("SSH_ORIGINAL_COMMAND", raising=False)
    if line is not None:
        monkeypatch.setenv("SSH_ORIGINAL_COMMAND", line)
    assert _host_command.main(["login"]) == 1
    assert message in capsys.readouterr().err
    assert called == []


def test_root_has_no_need_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert _host_command.main(["login"]) == 1
    assert "As root, call what you want itself" in capsys.readouterr().err
