# SPDX-License-Identifier: GPL-3.0-or-later
"""Stores to test with: a local directory, and a real S3 service that the environment names.

CVMFS_TEST_S3_ENDPOINT, CVMFS_TEST_S3_ACCESS_KEY, CVMFS_TEST_S3_SECRET_KEY say where the service is. Without them the
tests that need it are skipped, or fail if CVMFS_TEST_REQUIRE_S3=1.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from wire import Proxy

from cvmfs_publisher.storage import HttpStore, LocalStore, ObjectStore, S3Config, S3Store
from cvmfs_publisher.storage.retry import RetryPolicy

_VARIABLES = ("CVMFS_TEST_S3_ENDPOINT", "CVMFS_TEST_S3_ACCESS_KEY", "CVMFS_TEST_S3_SECRET_KEY")


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[S3Config]:
    """Settings of a new bucket, readable by everybody, that is gone after the tests."""
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        message = f"no S3 service to test with: {', '.join(missing)} not set"
        if os.environ.get("CVMFS_TEST_REQUIRE_S3") == "1":
            pytest.fail(message)
        pytest.skip(message)
    endpoint, access_key, secret_key = (os.environ[name] for name in _VARIABLES)
    client = s3_client(endpoint, access_key, secret_key)
    bucket = f"cvmfs-test-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=bucket)
    try:
        resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        statement = {
            "Effect": "Allow",
            "Principal": {"AWS": ["*"]},
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": resources,
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
        parts = urlsplit(endpoint)
        yield S3Config(
            host=parts.hostname or "",
            port=parts.port,
            https=parts.scheme == "https",
            bucket=bucket,
            access_key=access_key,
            secret_key=secret_key,
            dns_buckets=False,
        )
    finally:
        delete_bucket(client, bucket)


@pytest.fixture
def s3_config(s3_bucket: S3Config) -> S3Config:
    """Settings of a place that no other test uses. Gives up on failures after a few seconds."""
    retry = RetryPolicy(initial=0.05, maximum=1, total=10, first_contact=2)
    return dataclasses.replace(s3_bucket, prefix=f"{secrets.token_hex(6)}.example.org", retry=retry)


@pytest.fixture
def store_s3(s3_config: S3Config) -> Iterator[S3Store]:
    """An empty store in a real bucket."""
    with S3Store(s3_config) as store:
        yield store


@pytest.fixture
def store_http(s3_config: S3Config) -> Iterator[HttpStore]:
    """What `store_s3` looks like to everybody."""
    with HttpStore(f"{s3_config.endpoint}/{s3_config.bucket}/{s3_config.prefix}") as store:
        yield store


@pytest.fixture
def store_local(tmp_path: Path) -> Iterator[LocalStore]:
    """An empty store in a directory."""
    with LocalStore(tmp_path / "store") as store:
        yield store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Each kind of store that can be written, in turn."""
    found: ObjectStore = request.getfixturevalue(f"store_{request.param}")
    return found


@pytest.fixture
def proxy(s3_config: S3Config) -> Iterator[Proxy]:
    """Something between us and the real S3 service that lets tests break requests."""
    with Proxy(s3_config) as running:
        yield running


@pytest.fixture
def make_s3(s3_config: S3Config) -> Iterator[Callable[..., S3Store]]:
    """Makes stores that differ from `store_s3` in some settings."""
    made = []

    def make(notify: Callable[[str], None] | None = None, **changes: Any) -> S3Store:
        made.append(S3Store(dataclasses.replace(s3_config, **changes), notify))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def no_thread_leaks() -> Iterator[None]:
    """Fails a test that leaves threads behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(2)
    assert not [thread.name for thread in left if thread.is_alive()]


def s3_client(endpoint: str, access_key: str, secret_key: str) -> Any:
    """An independent S3 client, to make buckets and to look at what was done."""
    boto3 = pytest.importorskip("boto3")
    config = pytest.importorskip("botocore.config")
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=config.Config(s3={"addressing_style": "path"}),
    )


def delete_bucket(client: Any, bucket: str) -> None:
    """Delete a bucket and what is in it."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        objects = [{"Key": item["Key"]} for item in page.get("Contents", [])]
        if objects:
            client.delete_objects(Bucket=bucket, Delete={"Objects": objects})
    client.delete_bucket(Bucket=bucket)
