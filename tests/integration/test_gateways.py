# SPDX-License-Identifier: GPL-3.0-or-later
"""Gateways with other settings than the one that the tests use, on the same cluster: what is said about them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import RADOSGW_ADMIN, Site

# Nothing here is about the engine.
pytestmark = [pytest.mark.roles, pytest.mark.parametrize("site", ["podman"], indirect=True)]

CONTAINER = RADOSGW_ADMIN[2]
INDEXLESS = "test-indexless"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def gateway(options: str, port: int) -> Iterator[str]:
    """Have one more gateway of the cluster, and yield its endpoint."""
    place = f"/tmp/gateway-{port}"  # noqa: S108 (in the container)
    run("podman", "exec", CONTAINER, "mkdir", "-p", place)
    frontends = f"--rgw-frontends=beast endpoint=0.0.0.0:{port} {options}"
    files = [f"--{name}={place}/{name}" for name in ("admin-socket", "log-file", "pid-file")]
    command = ["radosgw", "-n", "client.rgw.a", frontends, f"--rgw-data={place}", *files]
    run("podman", "exec", CONTAINER, *command)  # it goes to the background by itself
    address = run("podman", "inspect", "--format", "{{.NetworkSettings.IPAddress}}", CONTAINER).strip()
    endpoint = f"http://{address}:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(endpoint, timeout=5):
                break
            assert time.monotonic() < deadline, "the gateway does not answer"
            time.sleep(0.2)
        yield endpoint
    finally:
        run("podman", "exec", CONTAINER, "bash", "-c", f"kill $(cat {place}/pid-file)")


@pytest.fixture
def user() -> Iterator[dict[str, str]]:
    """A user of the storage, with the keys as modules want them."""
    uid = f"test-{uuid.uuid4().hex[:12]}"
    made = json.loads(run(*RADOSGW_ADMIN, "user", "create", f"--uid={uid}", "--display-name=Test"))
    yield {name: made["keys"][0][name] for name in ("access_key", "secret_key")}
    run(*RADOSGW_ADMIN, "user", "rm", f"--uid={uid}", "--purge-data")


def test_a_gateway_that_delays_small_reads(site: Site, user: dict[str, str]) -> None:
    """RGW's default makes clients slow: the preflight sees it, and says what to change."""
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    with gateway("tcp_nodelay=0", 8491) as slow:
        assert site.module("cvmfs_s3_bucket", endpoint=slow, bucket=bucket, **user)["changed"]
        delayed = site.module("cvmfs_s3_preflight", endpoint=slow, bucket=bucket, **user)
        fine = site.module("cvmfs_s3_preflight", endpoint=site.endpoint, bucket=bucket, **user)
    assert delayed["get_latency_ms"] > 38
    assert len(delayed["advice"]) == 1
    assert "tcp_nodelay=1" in delayed["advice"][0]
    assert fine["advice"] == []
    assert fine["put_rate"] > 0


def test_a_bucket_without_an_index(site: Site, user: dict[str, str]) -> None:
    """It is there on request, it can have no quota, and it is not taken for empty."""
    _have_placement()
    bucket = f"test-{uuid.uuid4().hex[:12]}"
    with gateway("tcp_nodelay=1", 8492) as endpoint:
        arguments: dict[str, Any] = {"endpoint": endpoint, "bucket": bucket, **user}
        unknown = site.module("cvmfs_s3_bucket", placement=":nowhere", **arguments)
        assert "The service has no such placement target" in unknown["msg"]
        assert site.module("cvmfs_s3_bucket", placement=f":{INDEXLESS}", **arguments)["changed"]
        assert site.module("cvmfs_s3_preflight", measure=False, **arguments)["anonymous_read"]
        seen = site.module("cvmfs_rgw_bucket", bucket=bucket, placement=f":{INDEXLESS}", command=RADOSGW_ADMIN)
        assert seen["indexed"] is False
        assert seen["differences"] == []
        limited = site.module("cvmfs_rgw_bucket", bucket=bucket, quota_bytes=1 << 30, command=RADOSGW_ADMIN)
        assert "has no index, so the gateway cannot enforce a quota" in limited["msg"]
        refused = site.module("cvmfs_s3_bucket", state="absent", **arguments)
        assert "has no index: it may or may not be empty" in refused["msg"]
        assert site.module("cvmfs_s3_bucket", state="absent", force=True, **arguments)["changed"]
        assert not site.module("cvmfs_s3_bucket", state="absent", force=True, **arguments)["changed"]


def _have_placement() -> None:
    """The gateways that start after this know a placement target without an index."""
    target = [f"--placement-id={INDEXLESS}"]
    pools = [f"--{kind}-pool=default.rgw.buckets.{name}" for kind, name in _POOLS.items()]
    run(*RADOSGW_ADMIN, "zonegroup", "placement", "add", "--rgw-zonegroup=default", *target)
    kind = "--placement-index-type=indexless"
    run(*RADOSGW_ADMIN, "zone", "placement", "add", "--rgw-zone=default", *target, kind, *pools)


_POOLS = {"data": "data", "index": "index", "data-extra": "non-ec"}
