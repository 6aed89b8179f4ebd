# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told, of a repository that CernVM-FS's own tools have made, read over real HTTP."""

from __future__ import annotations

import json
import pathlib
import sqlite3
import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _metrics
from conftest import FIXTURE_NAME

COLLECTION = pathlib.Path(_metrics.__file__).resolve().parents[2]
NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
# As CernVM-FS 2.12 makes them, with the columns that are read
UPSTREAM_TABLES = """
CREATE TABLE publish_statistics (publish_id INTEGER PRIMARY KEY, start_time TEXT, finish_time TEXT, revision INTEGER,
  files_added INTEGER, files_removed INTEGER, files_changed INTEGER, chunks_added INTEGER, sz_bytes_uploaded INTEGER,
  sz_catalog_bytes_uploaded INTEGER, success INTEGER);
CREATE TABLE gc_statistics (gc_id INTEGER PRIMARY KEY, start_time TEXT, finish_time TEXT, n_condemned_objects INTEGER,
  success INTEGER);
INSERT INTO publish_statistics VALUES
  (1, '2027-01-10 00:00:00', '2027-01-10 00:01:00', 1, 5, 0, 0, 50, 5000, 10, 1),
  (2, '2027-01-15 06:00:00', '2027-01-15 06:02:03', 2, 3, 2, 1, 7, 1000, 24, 1),
  (3, '2027-01-15 07:00:00', '2027-01-15 07:00:10', 0, 0, 0, 0, 1, 100, 0, 0);
INSERT INTO gc_statistics VALUES (1, '2027-01-01 00:00:00', '2027-01-01 01:00:00', 42, 1);
"""
NATIVE_TABLE = """
CREATE TABLE run_statistics (run_id INTEGER PRIMARY KEY, operation TEXT, start_time TEXT, finish_time TEXT,
  success INTEGER, error TEXT, s3_requests INTEGER, s3_retries INTEGER, s3_seconds REAL);
INSERT INTO run_statistics VALUES
  (1, 'publish', '2027-01-15 06:00:00', '2027-01-15 06:02:03', 1, NULL, 40, 0, 8.0),
  (2, 'publish', '2027-01-15 07:00:00', '2027-01-15 07:00:10', 0, 'QuotaExceeded', 4, 2, 1.0);
"""


@pytest.fixture
def target(upstream_url: str, upstream_key: str) -> dict[str, Any]:
    return {"repository": FIXTURE_NAME, "url": upstream_url, "public_keys": (upstream_key,)}


@pytest.fixture
def statistics_db(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "stats.db"
    with sqlite3.connect(path) as database:
        database.executescript(UPSTREAM_TABLES)
    return path


def values(text: str) -> dict[str, float]:
    """The samples of an exposition, without the label that all have."""
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    label = f'{{repository="{FIXTURE_NAME}"'
    return {name.replace(f"{label},", "{").replace(f"{label}}}", ""): float(value) for name, _space, value in lines}


def collect(cache: dict[str, Any] | None = None, **target: Any) -> dict[str, float]:
    return values(_metrics.collect([_metrics.Target(**target)], cache=cache, now=NOW).render())


def test_repository(target: dict[str, Any]) -> None:
    found = collect(**target)
    assert found.pop("cvmfs_repository_get_seconds") > 0
    assert found == {
        'cvmfs_repository_up{part="repository"}': 1,
        'cvmfs_repository_up{part="lease"}': 1,
        'cvmfs_repository_up{part="statistics"}': 1,
        "cvmfs_repository_collected_timestamp_seconds": NOW,
        "cvmfs_repository_revision": 2,
        "cvmfs_repository_garbage_collectable": 0,
        "cvmfs_repository_published_timestamp_seconds": 1795437915,
        "cvmfs_repository_ttl_seconds": 240,
        "cvmfs_repository_whitelist_expiry_timestamp_seconds": 4949037915,
        'cvmfs_repository_entries{kind="file"}': 6,
        'cvmfs_repository_entries{kind="directory"}': 5,
        'cvmfs_repository_entries{kind="symlink"}': 2,
        'cvmfs_repository_entries{kind="special"}': 1,
        'cvmfs_repository_entries{kind="catalog"}': 2,
        "cvmfs_repository_file_bytes": 37748748,
        "cvmfs_repository_named_snapshots": 4,
        "cvmfs_repository_transaction_open": 0,
        "cvmfs_repository_get_retries": 0,
    }


def test_statistics_of_upstream(target: dict[str, Any], statistics_db: pathlib.Path) -> None:
    found = collect(**target, statistics_db=str(statistics_db))
    assert {name: value for name, value in found.items() if "_last_" in name or "_day" in name} == {
        'cvmfs_repository_last_run_timestamp_seconds{operation="publish"}': NOW - 3600 + 10,
        'cvmfs_repository_last_run_duration_seconds{operation="publish"}': 10,
        'cvmfs_repository_last_run_success{operation="publish"}': 0,
        'cvmfs_repository_last_success_timestamp_seconds{operation="publish"}': NOW - 7200 + 123,
        'cvmfs_repository_last_failure_timestamp_seconds{operation="publish",error="unknown"}': NOW - 3600 + 10,
        'cvmfs_repository_runs_in_day{operation="publish",result="success"}': 1,
        'cvmfs_repository_runs_in_day{operation="publish",result="failure"}': 1,
        'cvmfs_repository_last_publish_files{change="added"}': 3,
        'cvmfs_repository_last_publish_files{change="removed"}': 2,
        'cvmfs_repository_last_publish_files{change="changed"}': 1,
        "cvmfs_repository_last_publish_objects": 7,
        "cvmfs_repository_last_publish_bytes": 1024,
        "cvmfs_repository_published_objects_in_day": 8,
        "cvmfs_repository_published_bytes_in_day": 1124,
        'cvmfs_repository_last_run_timestamp_seconds{operation="gc"}': 1798765200,
        'cvmfs_repository_last_run_duration_seconds{operation="gc"}': 3600,
        'cvmfs_repository_last_run_success{operation="gc"}': 1,
        'cvmfs_repository_last_success_timestamp_seconds{operation="gc"}': 1798765200,
        'cvmfs_repository_runs_in_day{operation="gc",result="success"}': 0,
        'cvmfs_repository_runs_in_day{operation="gc",result="failure"}': 0,
        "cvmfs_repository_last_gc_objects": 42,
    }


def test_statistics_of_the_native_engine(target: dict[str, Any], statistics_db: pathlib.Path) -> None:
    with sqlite3.connect(statistics_db) as database:
        database.executescript(NATIVE_TABLE)
    found = collect(**target, statistics_db=str(statistics_db))
    assert {name: value for name, value in found.items() if "s3" in name or "error=" in name} == {
        'cvmfs_repository_last_failure_timestamp_seconds{operation="publish",error="QuotaExceeded"}': NOW - 3600 + 10,
        'cvmfs_repository_last_run_s3_requests{operation="publish"}': 4,
        'cvmfs_repository_last_run_s3_retries{operation="publish"}': 2,
        'cvmfs_repository_last_run_s3_request_seconds{operation="publish"}': 0.25,
    }


def test_statistics_beside_the_repository(
    target: dict[str, Any], statistics_db: pathlib.Path, upstream_repository: pathlib.Path
) -> None:
    place = upstream_repository / "stats"
    place.mkdir()
    try:
        statistics_db.rename(place / "stats.db")
        assert collect(**target)["cvmfs_repository_last_gc_objects"] == 42
        place.joinpath("stats.db").write_bytes(b"no database" * 1000)
        assert collect(**target)['cvmfs_repository_up{part="statistics"}'] == 0
    finally:
        place.joinpath("stats.db").unlink()
        place.rmdir()


def test_lease(target: dict[str, Any], upstream_repository: pathlib.Path) -> None:
    lease = upstream_repository / ".cvmfs_publishing_lease.json"
    times = {"acquired": 2_000_000_000, "expires": 2_000_000_300}
    lease.write_text(
        json.dumps({"holder": "rm1", "transaction": "abc", "session": "def", "is_released": False, **times})
    )
    try:
        found = collect(**target)
        lease.write_text("{}")
        damaged = collect(**target)
    finally:
        lease.unlink()
    assert found["cvmfs_repository_transaction_open"] == 1
    assert found["cvmfs_repository_lease_acquired_timestamp_seconds"] == times["acquired"]
    assert found["cvmfs_repository_lease_expiry_timestamp_seconds"] == times["expires"]
    assert damaged['cvmfs_repository_up{part="lease"}'] == 0
    assert damaged['cvmfs_repository_up{part="statistics"}'] == 1


def test_immutable_objects_are_read_once(target: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cache: dict[str, Any] = {"gone.example.org": {}}
    first = collect(cache, **target)
    cache = json.loads(json.dumps(cache))
    assert set(cache) == {FIXTURE_NAME}
    monkeypatch.setattr(_metrics.Repository, "totals", lambda _self: pytest.fail("read again"))
    monkeypatch.setattr(_metrics.Repository, "tags", lambda _self: pytest.fail("read again"))
    second = collect(cache, **target)
    assert [first.pop(name) for name in list(first) if "get_seconds" in name] != []
    assert first.items() <= second.items()


@pytest.mark.parametrize(
    "change",
    [{"url": "http://127.0.0.1:1/x"}, {"url": "nonsense"}, {"public_keys": ("nonsense",)}, {"ca_path": "/none"}],
    ids=lambda change: next(iter(change)),
)
def test_repository_that_cannot_be_read(
    target: dict[str, Any], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    if "ca_path" in change:
        change = {**change, "url": "https://127.0.0.1:1/x"}
    samples = _metrics.collect([_metrics.Target(**{**target, **change}), _metrics.Target(**target)], now=NOW)
    up = [line[-1] for line in samples.render().splitlines() if 'part="repository"' in line]
    assert up == ["0", "1"]  # one that is down is not in the way of others
    assert len(samples.problems) == 1


def test_labels_are_escaped() -> None:
    samples = _metrics.Samples()
    samples.add("cvmfs_repository_up", True, repository='a"b\\c\nd')
    assert samples.render().splitlines()[-1] == 'cvmfs_repository_up{repository="a\\"b\\\\c\\nd"} 1'


def test_command(target: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """As the role's timer calls it, with nothing but Python's standard library."""
    configuration, output, cache = (tmp_path / name for name in ("configuration.json", "cvmfs.prom", "cache.json"))
    configuration.write_text(json.dumps({"repositories": [target]}))
    package = tmp_path / "ansible_collections" / "cvmfs"
    package.mkdir(parents=True)
    package.joinpath("publishing").symlink_to(COLLECTION)
    module = "ansible_collections.cvmfs.publishing.plugins.module_utils._metrics"
    command = [sys.executable, "-S", "-m", module, str(configuration), str(output), str(cache)]
    for _time in range(2):
        subprocess.run(command, check=True, cwd=tmp_path)
        assert values(output.read_text())["cvmfs_repository_revision"] == 2
        assert output.stat().st_mode & 0o777 == 0o644
        output.unlink()


def test_every_metric_is_documented_once() -> None:
    code = pathlib.Path(_metrics.__file__).read_text().partition("\n}\n")[2]
    added = {name for name in _metrics.METRICS if f'"{name}"' in code}
    assert set(_metrics.METRICS) - added == {"cvmfs_bucket_objects", "cvmfs_bucket_bytes"}  # made of two parts there
