# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""What a release that was published twice looks like to strangers, and what publishing left on the host."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterator

import pytest
from conftest import Scenario
from reader import Entry, PublishedTree
from testinfra.host import Host

IMAGE = "localhost/cvmfs-release-manager:native"
SEARCH = pathlib.Path(__file__).parents[3] / "tests/integration/search_secrets.py"


def listing(host: Host, source: str) -> dict[str, Entry]:
    """Return what a directory of the host has, in the reader's terms."""
    program = (
        "import hashlib, json, os, sys\n"
        "root = sys.argv[1]\n"
        "def entry(path):\n"
        "    mode = os.lstat(path).st_mode\n"
        "    target = os.readlink(path) if os.path.islink(path) else ''\n"
        "    regular = os.path.isfile(path) and not target\n"
        "    return mode, target, hashlib.sha256(open(path, 'rb').read()).hexdigest() if regular else None\n"
        "names = [os.path.join(d, n) for d, ds, fs in os.walk(root) for n in ds + fs]\n"
        "print(json.dumps({os.path.relpath(name, root): entry(name) for name in names}))\n"
    )
    found = json.loads(host.check_output("python3 -c %s %s", program, source))
    return {path: Entry(*values) for path, values in found.items()}


def search(scenario: Scenario) -> list[dict[str, str]]:
    """Look for secrets on all of the host's disk and in all of its processes."""
    request = {
        "needles": scenario.secrets(),
        "roots": ["/", "/run", "/tmp", "/var/lib/containers", "/var/lib/cvmfs-publishing", "/var/lib/docker"],  # noqa: S108
        "pids": None,
    }
    process = subprocess.run(
        ["podman", "exec", "--interactive", scenario.instance, "python3", "-c", SEARCH.read_text()],
        input=json.dumps(request),
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[dict[str, str]] = json.loads(process.stdout)
    return found


class TestService:
    """Read over anonymous HTTP."""

    def test_second_host_has_published(self, published: PublishedTree, scenario: Scenario) -> None:
        assert published.manifest["N"] == scenario.repository
        assert published.revision == 3  # created, published, published from another host

    def test_has_what_the_sources_have(self, published: PublishedTree, scenario: Scenario, host: Host) -> None:
        tree = published.tree()
        for item in scenario.variables["content"]:
            base = f"{item['base_dir']}/"
            expected = listing(host, item["source"])
            assert expected
            assert {path.removeprefix(base): entry for path, entry in tree.items() if path.startswith(base)} == expected
        assert "site/NEWS" in tree

    def test_strangers_cannot_write(self, published: PublishedTree) -> None:
        before = published.get(".cvmfspublished")
        for method, key in (("PUT", ".cvmfspublished"), ("PUT", "data/ab/intruder"), ("DELETE", ".cvmfspublished")):
            status, _body = published.request(method, key, b"bad" if method == "PUT" else None)
            assert status == 403, (method, key)
        assert published.get(".cvmfspublished") == before
        assert published.request("GET", "data/ab/intruder")[0] == 404


class TestHost:
    """The host between two publishes, and in the middle of a transaction."""

    def test_nothing_is_left_of_a_publish(self, host: Host, scenario: Scenario) -> None:
        assert scenario.engine(host, "ps", "--all", "--quiet") == ""
        assert scenario.engine(host, "volume", "ls", "--quiet") == ""

    def test_containers_are_of_the_hosts_image_and_there_is_no_other(self, host: Host, scenario: Scenario) -> None:
        """A service user has a copy, which is made anew when the host's is."""
        of_host = host.check_output(f"{scenario.engine_name} image inspect --format '{{{{.Id}}}}' {IMAGE}")
        found = scenario.engine(host, "images", "--quiet", "--no-trunc").split()
        assert [identity.removeprefix("sha256:") for identity in found] == [of_host.removeprefix("sha256:")]

    def test_engine_has_the_secrets_of_publishing_and_no_master_key(self, host: Host, scenario: Scenario) -> None:
        names = scenario.secret_names(host)
        kinds = sorted(name.removeprefix(f"cvmfs-{scenario.repository}-").rpartition("-")[0] for name in names)
        assert kinds == ["crt", "key", "s3"]

    def test_secrets_are_in_the_engines_store_alone(self, scenario: Scenario) -> None:
        found = search(scenario)
        assert {item["needle"] for item in found} == {"S3 secret", "key"}  # it finds what there is to find
        assert [item for item in found if not item["place"].startswith(scenario.store)] == []
        assert [item for item in found if int(item["mode"], 8) & 0o077] == []

    def test_log_has_no_secret(self, host: Host, scenario: Scenario) -> None:
        log = host.check_output("journalctl --no-pager --output=cat")
        assert log
        assert [name for name, secret in scenario.secrets().items() if secret in log] == []


class TestOpenTransaction:
    """A release manager at work."""

    @pytest.fixture(scope="class")
    def container(self, scenario: Scenario) -> Iterator[str]:
        sources = [item["source"] for item in scenario.variables["content"]]
        opened = scenario.module("cvmfs_transaction", repository=scenario.repository, sources=sources)
        assert opened.get("changed"), opened
        yield f"cvmfs-{scenario.repository}"
        identity = opened["transaction"]["id"]
        aborted = scenario.module("cvmfs_transaction", repository=scenario.repository, state="aborted", id=identity)
        assert aborted.get("changed"), aborted

    def test_secrets_reach_the_container_as_files_for_it_alone(
        self, host: Host, scenario: Scenario, container: str
    ) -> None:
        found = search(scenario)
        assert {item["needle"] for item in found} == {"S3 secret", "key"}
        others = [item for item in found if not item["place"].startswith((scenario.store, scenario.shown))]
        assert others == []  # no argument, no environment, no other file
        assert [item for item in found if int(item["mode"], 8) & 0o077] == []
        description = scenario.engine(host, "inspect", container)
        assert [name for name, secret in scenario.secrets().items() if secret in description] == []
        for path in (f"keys/{scenario.repository}.key", f"s3/{scenario.repository}.conf"):
            assert scenario.engine(host, "exec", container, "stat", "-c", "%a %u", f"/etc/cvmfs/{path}") == "400 0"

    def test_container_has_the_least_rights(self, host: Host, scenario: Scenario, container: str) -> None:
        status = scenario.engine(host, "exec", container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        # Root's may read everybody's sources (CAP_DAC_READ_SEARCH), and no more.
        assert fields["CapBnd"] == f"{0 if scenario.user else 1 << 2:016x}"
        assert fields["NoNewPrivs"] == "1"
        with pytest.raises(AssertionError, match="Read-only file system"):
            scenario.engine(host, "exec", container, "touch", "/etc/cvmfs/x")
        (pid,) = scenario.engine(host, "inspect", "--format", "{{.State.Pid}}", container).split()
        assert host.file(f"/proc/{pid}").user == (scenario.user or "root")


class TestSchedules:
    """Timers of systemd's."""

    def test_services_work(self, host: Host, scenario: Scenario) -> None:
        actions = scenario.variables["cvmfs_repositories"][scenario.repository].get("schedules", {})
        for action in actions:
            unit = f"cvmfs-{action}@{scenario.repository}"
            assert host.service(f"{unit}.timer").is_running
            assert host.service(f"{unit}.timer").is_enabled
            host.check_output("systemctl start %s", f"{unit}.service")
            assert host.check_output("systemctl show --property=Result --value %s", f"{unit}.service") == "success"
