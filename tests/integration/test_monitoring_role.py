# SPDX-License-Identifier: GPL-3.0-or-later
"""The role monitoring on a host with systemd: Prometheus knows what is published, and in the end nothing is left."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from . import breaking_off
from .conftest import Run, Site, running_site
from .hosts import free_port, on_host, play_on, start_host

pytestmark = pytest.mark.roles


DROP_IN = "/etc/systemd/system/prometheus-node-exporter.service.d/cvmfs.conf"


@dataclasses.dataclass
class Monitoring:
    """A host that watches the repository of a site."""

    site: Site
    host: str
    exporter: int
    prometheus: int

    def configure(self, *options: str, **variables: Any) -> Run:
        """Run the playbook `site` for this host alone; `variables` are what differs from the defaults."""
        common = {
            "cvmfs_keys_dir": str(self.site.keys),
            "cvmfs_repositories": {
                self.site.repository: {"s3": {"endpoint": self.site.endpoint, "bucket": self.site.repository}},
                "old.example.org": {"state": "absent"},
            },
            "monitoring_node_exporter_listen": f"127.0.0.1:{self.exporter}",
            "monitoring_prometheus": True,
            "monitoring_prometheus_listen": f"127.0.0.1:{self.prometheus}",
            # The host's own name does not lead to its loopback interface.
            "monitoring_prometheus_targets": [f"127.0.0.1:{self.exporter}"],
            "monitoring_schedule": "*:*:0/15",
            **variables,
        }
        return play_on(self.site, "monitoring", {self.host: {}}, *options, **common)

    def break_off(self, state: str) -> None:
        """Break off each run for this host after its first change, as the one before has configured it."""
        inventories = ["-i", "inventory.yml", "-i", "monitoring.yml", "--limit", "monitoring"]
        variables = ["--extra-vars", json.dumps({"monitoring_state": state})]
        command = ["ansible-playbook", *inventories, "cvmfs.publishing.site", *variables]
        directory, environment = self.site.directory, self.site.environment
        breaking_off.step_by_step(
            lambda after: breaking_off.run(command, directory=directory, environment=environment, after=after)
        )

    def expect_no_change(self, *options: str, **variables: Any) -> None:
        """Run the playbook, which is to change nothing."""
        run = self.configure(*options, **variables).expect()
        assert run.changed == 0, run.output

    @property
    def up(self) -> str:
        """Whether Prometheus reaches the node exporter."""
        return f'up{{instance="127.0.0.1:{self.exporter}"}}'

    def sample(self, query: str) -> float | None:
        """Ask the Prometheus server; return the value of the only series, or None if there is none."""
        url = f"http://127.0.0.1:{self.prometheus}/api/v1/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(url) as response:
            series = json.load(response)["data"]["result"]
        return float(series[0]["value"][1]) if series else None

    def wait_for(self, query: str, value: float) -> None:
        """Wait until a series has a value."""
        found: float | str | None = "not there"
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError):  # it starts again
                if (found := self.sample(query)) == value:
                    return
            time.sleep(1)
        pytest.fail(f"{query} is {found}, not {value}: {on_host(self.host, 'journalctl', '--no-pager', '-n', '50')}")


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitoring]:
    """A host on which the role has run once."""
    with running_site(tmp_path_factory.mktemp("monitoring"), "podman") as site, contextlib.ExitStack() as stack:
        made = Monitoring(site, start_host(stack, "monitoring"), free_port(), free_port())
        assert made.configure("--check").expect().changed > 3  # there are no bindings of apt for Python yet
        made.configure().expect()
        yield made


def test_prometheus_knows_what_is_published(monitoring: Monitoring, tmp_path: pathlib.Path) -> None:
    site = monitoring.site
    name = f'{{repository="{site.repository}"}}'
    monitoring.wait_for(f"cvmfs_repository_revision{name}", site.revision())
    (tmp_path / "file").write_text("content")
    site.publish(tmp_path, "sw").expect()
    monitoring.wait_for(f"cvmfs_repository_revision{name}", site.revision())
    assert monitoring.sample('cvmfs_repository_up{repository="old.example.org"}') is None
    # The rules are Prometheus's now, and all of them are computed.
    with urllib.request.urlopen(f"http://127.0.0.1:{monitoring.prometheus}/api/v1/rules") as response:
        rules = [rule for group in json.load(response)["data"]["groups"] for rule in group["rules"]]
    assert rules
    assert [rule["name"] for rule in rules if rule["health"] == "err"] == []


def test_the_second_time_nothing_changes(monitoring: Monitoring) -> None:
    monitoring.expect_no_change("--check", "--diff")
    monitoring.expect_no_change()


def test_changed_settings_are_predicted_and_take_effect(monitoring: Monitoring) -> None:
    port = free_port()
    predicted = monitoring.configure("--check", monitoring_prometheus_listen=f"127.0.0.1:{port}").expect()
    assert predicted.changed > 0
    assert monitoring.sample(monitoring.up) == 1
    before, monitoring.prometheus = monitoring.prometheus, port
    monitoring.configure().expect()
    monitoring.wait_for(monitoring.up, 1)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{before}/")
    monitoring.expect_no_change()


def test_what_a_broken_off_run_has_written_takes_effect(monitoring: Monitoring) -> None:
    port = free_port()
    time.sleep(1.1)  # times are compared by seconds
    edit = ["sed", "-i", f"s/127.0.0.1:{monitoring.exporter}/127.0.0.1:{port}/", DROP_IN]
    on_host(monitoring.host, *edit)
    before, monitoring.exporter = monitoring.exporter, port
    assert monitoring.configure(monitoring_prometheus=False).expect().changed == 1
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        assert b"cvmfs_repository_up" in response.read()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{before}/")


def test_it_is_taken_away_again(monitoring: Monitoring) -> None:
    assert monitoring.configure("--check", monitoring_state="absent").expect().changed > 0
    assert "cvmfs-metrics.timer" in on_host(monitoring.host, "systemctl", "list-units", "--no-pager")
    service = "/etc/systemd/system/cvmfs-metrics.service"
    on_host(monitoring.host, "sed", "-i", "s,^ExecStart=.*,ExecStart=/bin/false,", service)
    on_host(monitoring.host, "sh", "-c", "systemctl daemon-reload; ! systemctl start cvmfs-metrics.service")
    monitoring.break_off("absent")
    assert "cvmfs" not in on_host(monitoring.host, "systemctl", "list-units", "--all", "--no-pager")
    for port in (monitoring.exporter, monitoring.prometheus):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
    places = ["/etc", "/usr/local", "/var/lib"]
    assert on_host(monitoring.host, "find", *places, "-xdev", "-iname", "*cvmfs*") == ""
    monitoring.expect_no_change(monitoring_state="absent")
