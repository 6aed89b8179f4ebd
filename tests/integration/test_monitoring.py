# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics of a repository that is published to, alert rules, and a dashboard, with a real Prometheus."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import yaml

from .conftest import ENGINES, ROOT, Site, running_site
from .hosts import free_port
from .plays import run_tasks

pytestmark = pytest.mark.roles

RULES = ROOT / "roles/monitoring/files/cvmfs.rules.yml"
DASHBOARD = ROOT / "roles/monitoring/files/cvmfs.dashboard.json"
METRICS = ROOT / "plugins/module_utils/_metrics.py"


@pytest.fixture(scope="module")
def prometheus() -> pathlib.Path:
    """The directory with Prometheus's programs."""
    directory = ROOT / "build/prometheus"
    subprocess.run([ROOT / "tools/prometheus-binaries", directory], check=True)
    return directory / "usr/bin"


@pytest.fixture(scope="module", params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of this module alone: what others do in theirs would be in the metrics."""
    with running_site(tmp_path_factory.mktemp("site"), request.param) as site:
        yield site


def documented() -> set[str]:
    return set(re.findall(r'^    "(cvmfs_[a-z0-9_]+)": "', METRICS.read_text(), re.MULTILINE))


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def alert_queries() -> list[str]:
    return [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_queries_are_of_metrics_that_exist() -> None:
    asked = set(re.findall(r"\b(?:cvmfs|node)_[a-z0-9_]+", " ".join([*dashboard_queries(), *alert_queries()])))
    of_node_exporter = {"node_systemd_unit_state", "node_textfile_mtime_seconds", "node_textfile_scrape_error"}
    assert asked - documented() == of_node_exporter


def test_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", json.dumps(panels))) == variables
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)  # no panel is on top of another
    assert max(x for x, _y in cells) < 24


def test_alerts(prometheus: pathlib.Path) -> None:
    """The cases are in prometheus/."""
    cases = sorted(pathlib.Path(__file__).with_name("prometheus").glob("*.yml"))
    for command in (["check", "rules", "--lint=all", "--lint-fatal", RULES], ["test", "rules", *cases]):
        done = subprocess.run(
            [prometheus / "promtool", *command],
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
    text = "".join(path.read_text() for path in cases)
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert [alert for alert in alerts if f"alertname: {alert}" not in text and f'alertname="{alert}"' not in text] == []


def expose(site: Site, directory: pathlib.Path) -> dict[str, float]:
    """Look at the site's repository as the role's timer does, and return the samples by name and further labels."""
    target = {
        "repository": site.repository,
        "url": site.url,
        "public_keys": [(site.keys / f"{site.repository}.pub").read_text()],
        "bucket_url": f"{site.endpoint}/{site.repository}",
        "quota_bytes": 1 << 40,
    }
    directory.mkdir(exist_ok=True)
    (directory / "repositories.json").write_text(json.dumps({"repositories": [target]}))
    module = "ansible_collections.cvmfs.publishing.plugins.module_utils._metrics"
    files = [str(directory / name) for name in ("repositories.json", "metrics", "cache.json")]
    done = subprocess.run(
        [sys.executable, "-m", module, *files],
        check=True,
        cwd=site.directory / "collections",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.stderr == ""
    lines = [line.rpartition(" ") for line in (directory / "metrics").read_text().splitlines() if line[0] != "#"]
    label = f'{{repository="{site.repository}"'
    return {name.replace(f"{label},", "{").replace(f"{label}}}", ""): float(value) for name, _space, value in lines}


@pytest.fixture(scope="module")
def watched(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pathlib.Path, dict[str, float]]]:
    """A site where a publish succeeded, one failed, and a transaction is open; the directory with its metrics."""
    directory = tmp_path_factory.mktemp("metrics")
    source = directory / "source"
    source.mkdir()
    (source / "file").write_text("content")
    site.publish(source, "sw").expect()
    archive = directory / "short.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, "again")
        tar.add(DASHBOARD, "dashboard.json")
    os.truncate(archive, archive.stat().st_size // 2)
    # The playbook would have looked at the archive beforehand.
    program = (
        "import sys; from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import *; "
        "manager = ReleaseManager.load(config_dir=sys.argv[1], fqrn=sys.argv[2]); "
        "manager.server_once(sources=[sys.argv[3]]).ingest(base_dir='sw', tar_file=SOURCE_DIR + sys.argv[3])"
    )
    command = [sys.executable, "-c", program, str(site.config), site.repository, str(archive)]
    failed = subprocess.run(command, check=False, cwd=site.directory / "collections", capture_output=True, text=True)
    assert "is cut short" in failed.stderr
    (opened,) = run_tasks(site, {"cvmfs_transaction": {"sources": [str(source)]}})
    yield directory, expose(site, directory)
    run_tasks(site, {"cvmfs_transaction": {"id": opened["transaction"]["id"], "state": "aborted"}})


def test_metrics(site: Site, watched: tuple[pathlib.Path, dict[str, float]]) -> None:
    _directory, found = watched
    now = time.time()
    assert found["cvmfs_repository_revision"] == site.revision() == 2
    assert [
        found[f'cvmfs_repository_up{{part="{part}"}}'] for part in ("repository", "lease", "statistics", "bucket")
    ] == [1] * 4
    assert found["cvmfs_repository_transaction_open"] == 1
    assert now - 600 < found["cvmfs_repository_lease_acquired_timestamp_seconds"] <= now + 5
    assert found["cvmfs_repository_lease_expiry_timestamp_seconds"] > now
    assert 20 < (found["cvmfs_repository_whitelist_expiry_timestamp_seconds"] - now) / 86400 < 31
    assert found['cvmfs_repository_runs_in_day{operation="publish",result="success"}'] == 1
    assert found['cvmfs_repository_runs_in_day{operation="publish",result="failure"}'] == 1
    assert found['cvmfs_repository_last_run_success{operation="publish"}'] == 0
    (failure,) = [name for name in found if "last_failure" in name]
    assert 'error="UnsafeArchive"' in failure
    assert found['cvmfs_repository_last_publish_files{change="added"}'] == 1
    assert found["cvmfs_repository_last_publish_bytes"] > 0
    assert found['cvmfs_repository_last_run_s3_requests{operation="publish"}'] > 0
    assert 0 < found['cvmfs_repository_last_run_s3_request_seconds{operation="publish"}'] < 10
    assert found["cvmfs_bucket_objects"] > 5
    assert found["cvmfs_bucket_bytes"] > found["cvmfs_repository_last_publish_bytes"]


def test_host_command_shows_the_same(site: Site, watched: tuple[pathlib.Path, dict[str, float]]) -> None:
    program = "import sys; from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command as c; "
    command = [sys.executable, "-c", f"{program}sys.exit(c.main())", "--config-dir", str(site.config), "metrics"]
    done = subprocess.run(command, check=True, cwd=site.directory / "collections", stdout=subprocess.PIPE, text=True)
    _directory, found = watched
    assert f'cvmfs_repository_revision{{repository="{site.repository}"}} 2\n' in done.stdout
    names = {line.partition("{")[0] for line in done.stdout.splitlines() if line[0] != "#"}
    assert {name.partition("{")[0] for name in found} - names == {
        "cvmfs_bucket_bytes",
        "cvmfs_bucket_objects",
        "cvmfs_bucket_quota_bytes",
    }


def test_prometheus_answers_what_the_dashboard_asks(
    prometheus: pathlib.Path, watched: tuple[pathlib.Path, dict[str, float]]
) -> None:
    directory, _found = watched
    with serving(directory) as exporter, running(prometheus, directory, exporter) as url:
        queries = [query.replace("$repository", ".*") for query in dashboard_queries()]
        deadline = time.monotonic() + 60
        while not ask(url, "cvmfs_repository_up") and time.monotonic() < deadline:
            time.sleep(0.5)
        assert [query for query in queries if not ask(url, query)] == []
        with urllib.request.urlopen(f"{url}/api/v1/rules") as response:  # noqa: S310
            groups = json.load(response)["data"]["groups"]
        assert len(groups[0]["rules"]) == len(alert_queries())


class _Exporter(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {"": "text/plain; version=0.0.4"}

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(directory: pathlib.Path) -> Iterator[str]:
    """Serve the metrics, as the node exporter does."""
    handler = functools.partial(_Exporter, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def running(programs: pathlib.Path, directory: pathlib.Path, exporter: str) -> Iterator[str]:
    """Run Prometheus with the alert rules and that exporter; yield its URL."""
    scrape = {"job_name": "cvmfs", "static_configs": [{"targets": [exporter]}], "scrape_interval": "1s"}
    configuration = {"rule_files": [str(RULES)], "scrape_configs": [scrape]}
    (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = [
        programs / "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
    ]
    for _attempt in range(3):  # somebody else may take the port first
        address = f"127.0.0.1:{free_port()}"
        with (
            (directory / "log").open("wb") as log,
            subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log) as process,
        ):
            try:
                if _is_ready(process, address):
                    yield f"http://{address}"
                    return
            finally:
                process.terminate()
    pytest.fail((directory / "log").read_text())


def _is_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    """Wait until the process that is to listen there answers; whether it does."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready"):
            return process.poll() is None
        time.sleep(0.2)
    return False


def ask(url: str, query: str) -> list[dict[str, Any]]:
    """Return the series that are the answer to a query."""
    with urllib.request.urlopen(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as response:  # noqa: S310
        answer = json.load(response)
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
