# SPDX-License-Identifier: GPL-3.0-or-later
"""Each host fetches the keys of issuers of OIDC tokens anew, by a timer, if it is asked to."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Run, Site
from .hosts import on_host, play_on, start_host, write_play
from .test_permissions import Issuer

pytestmark = pytest.mark.roles

UNITS = "/etc/systemd/system/cvmfs-oidc-keys.*"
KEYS = "/etc/cvmfs-publishing/oidc-keys.json"
SCHEDULE = (
    "{{ 'oidc_schedule' if release_manager_oidc and release_manager_oidc_schedule else 'oidc_schedule_absent' }}.yml"
)
TIMER, SERVICE = "cvmfs-oidc-keys.timer", "cvmfs-oidc-keys.service"


class Host:
    """A host that trusts one issuer, whose certificate's authority it knows."""

    def __init__(self, directory: pathlib.Path, name: str, issuer: Issuer) -> None:
        self.site = Site.without_storage(directory)
        self.play = write_play(directory, "preflight", "command", "oidc", SCHEDULE)
        self.name, self.issuer = name, issuer
        place = f"{name}:/usr/local/share/ca-certificates/issuer.crt"
        subprocess.run(["podman", "cp", issuer.certificate, place], check=True)
        self.run("update-ca-certificates")

    def configure(self, *options: str, **variables: Any) -> Run:
        """Run the role's tasks; `variables` are what differs from one issuer and a schedule."""
        names = {"team-atlas": {"project_path": "atlas/software"}}
        common = {
            "release_manager_oidc": [{"issuer": self.issuer.url, "audience": "x", "names": names}],
            "release_manager_oidc_schedule": "daily",
            "release_manager_environment": {"no_proxy": "127.0.0.1", "ODD": 'a "b" 100% $HOME'},
            **variables,
        }
        return play_on(self.site, "release_managers", {self.name: {}}, *options, playbook=self.play, **common)

    def run(self, *command: str) -> str:
        return on_host(self.name, *command)

    def keys(self) -> list[str]:
        """The names of the issuer's keys."""
        return [key["kid"] for key in json.loads(self.run("cat", KEYS))[self.issuer.url]["keys"]]

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).strip()


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[Host]:
    with Issuer(tmp_path).running() as issuer, contextlib.ExitStack() as stack:
        yield Host(tmp_path, start_host(stack, "oidc"), issuer)


def test_keys_are_fetched_by_a_timer(host: Host) -> None:
    assert "is no calendar expression" in host.configure(release_manager_oidc_schedule="at night").expect(2).output
    predicted = host.configure("--check", "--diff").expect()
    assert host.run("sh", "-c", f"ls {UNITS} {KEYS} 2>/dev/null || true") == ""
    done = host.configure().expect()
    assert predicted.changed == done.changed - 1  # the timer, whose units were not there to be started
    assert host.configure("--check", "--diff").expect().changed == 0
    found = [host.show(TIMER, name) for name in ("ActiveState", "UnitFileState", "Unit")]
    assert found == ["active", "enabled", SERVICE]
    assert "OnCalendar=*-*-* 00:00:00" in host.show(TIMER, "TimersCalendar")
    assert 'ODD=a "b" 100% $HOME' in host.run("systemctl", "show", "--property=Environment", SERVICE).replace("\\", "")

    assert host.keys() == ["first"]
    host.issuer.kid = "second"
    host.run("systemctl", "start", SERVICE)
    assert host.keys() == ["second"]
    assert host.configure().expect().changed == 0  # it is what the role would have written

    host.issuer.url, url = f"{host.issuer.url}/gone", host.issuer.url
    with pytest.raises(subprocess.CalledProcessError):  # so that monitoring sees it
        host.run("systemctl", "start", SERVICE)
    host.issuer.url = url
    assert f'What is there is the configuration of "{url}/gone"' in host.run("journalctl", "-u", SERVICE, "-o", "cat")
    assert host.keys() == ["second"]

    assert host.configure(release_manager_oidc_schedule="hourly").expect().changed == 1
    assert "OnCalendar=*-*-* *:00:00" in host.show(TIMER, "TimersCalendar")

    assert host.configure("--check", release_manager_oidc_schedule="").expect().changed > 0
    assert host.show(TIMER, "ActiveState") == "active"
    host.configure(release_manager_oidc_schedule="").expect()
    assert host.show(TIMER, "ActiveState") == "inactive"
    assert host.run("sh", "-c", f"ls {UNITS} /var/lib/systemd/timers/*oidc* 2>/dev/null || true") == ""
    assert host.configure(release_manager_oidc_schedule="").expect().changed == 0
    host.configure(release_manager_oidc=[]).expect()
    assert host.run("find", "/etc/cvmfs-publishing") == "/etc/cvmfs-publishing\n"


def test_an_issuer_that_is_out_of_reach_keeps_its_keys(tmp_path: pathlib.Path) -> None:
    """It is in the way of nothing else. One of whom there are no keys is."""
    with contextlib.ExitStack() as stack:
        with Issuer(tmp_path).running() as issuer:
            host = Host(tmp_path, start_host(stack, "oidc"), issuer)
            host.configure().expect()
        for options in ((), ("--check",)):
            run = host.configure(*options).expect()
            said = " ".join(run.output.split())
            assert f"Cannot fetch the keys of {issuer.url}: {issuer.url}/.well-known/openid-configuration " in said
            assert f"{host.name} keeps the keys of {issuer.url} that it has had (first)" in said
            assert run.changed == 0
        assert host.keys() == ["first"]
        about = {"issuer": issuer.url, "audience": "x", "names": {"team-cms": {"project_path": "cms/software"}}}
        assert host.configure(release_manager_oidc=[about]).expect().changed == 1  # oidc.json
        other = {**about, "issuer": f"{issuer.url}/other"}
        refused = host.configure(release_manager_oidc=[about, other]).expect(2)
        assert f"Cannot fetch the keys of {other['issuer']}: " in " ".join(refused.output.split())
        assert host.keys() == ["first"]
        with pytest.raises(subprocess.CalledProcessError):
            host.run("grep", "other", "/etc/cvmfs-publishing/oidc.json")
