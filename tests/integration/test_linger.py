# SPDX-License-Identifier: GPL-3.0-or-later
"""A user who runs the role needs a session that outlives logins: it is made, or it is said who can make it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from .conftest import Run, Site
from .hosts import on_host, play_on, start_host, write_play

pytestmark = pytest.mark.roles


@pytest.fixture
def host() -> Iterator[str]:
    """A host with logind, and a user."""
    with contextlib.ExitStack() as stack:
        name = start_host(stack, "linger")
        on_host(name, "useradd", "--create-home", "someone")
        on_host(name, "systemctl", "unmask", "systemd-logind")
        on_host(name, "systemctl", "start", "systemd-logind")
        yield name


def test_who_may_not_linger_is_told_what_to_do(host: str, tmp_path: pathlib.Path) -> None:
    site = Site.without_storage(tmp_path)
    play = write_play(tmp_path, "preflight", "linger")

    def run(*options: str) -> Run:
        hosts = {host: {"ansible_user": "someone"}}
        return play_on(site, "release_managers", hosts, *options, playbook=play)

    assert run("--check").expect().changed == 1
    refused = " ".join(run().expect(2).output.split())
    assert "Let root run `loginctl enable-linger someone` there" in refused
    on_host(host, "loginctl", "enable-linger", "someone")
    for options in ((), ("--check",)):
        assert run(*options).expect().changed == 0
