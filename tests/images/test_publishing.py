# SPDX-License-Identifier: GPL-3.0-or-later
"""A confined container publishes: with each engine, by root and by an ordinary user, to a real S3 endpoint."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator

import boto3
import pytest
from botocore.config import Config
from conftest import CONFINED, RELEASE_MANAGER, Engine

ENDPOINT = os.environ.get("CVMFS_TEST_S3_ENDPOINT", "")
ACCESS_KEY = os.environ.get("CVMFS_TEST_S3_ACCESS_KEY", "")
SECRET_KEY = os.environ.get("CVMFS_TEST_S3_SECRET_KEY", "")
FQRN = "confined.example.org"

pytestmark = pytest.mark.skipif(not ENDPOINT, reason="no S3 endpoint: run under tools/with-ceph")


@pytest.fixture
def bucket(engine: Engine) -> Iterator[str]:
    """An empty bucket that everybody can read."""
    client = boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    name = f"{engine.prefix}-{os.getpid()}"
    client.create_bucket(Bucket=name)
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
    }
    client.put_bucket_policy(Bucket=name, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    yield name
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=item["Key"])
    client.delete_bucket(Bucket=name)


@pytest.fixture
def host(engine: Engine, bucket: str) -> Iterator[pathlib.Path]:
    """What a host gives to the container: the configuration, and a source tree. All of it is the engine's user's."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{engine.prefix}-", dir="/var/tmp"))
    (directory / "s3").mkdir()
    settings = {
        "HOST": ENDPOINT.removeprefix("http://").split(":")[0],
        "PORT": ENDPOINT.rsplit(":", 1)[1],
        "USE_HTTPS": "false",
        "DNS_BUCKETS": "false",
        "REGION": "us-east-1",
        "BUCKET": bucket,
        "ACCESS_KEY": ACCESS_KEY,
        "SECRET_KEY": SECRET_KEY,
    }
    text = "".join(f"CVMFS_S3_{name}={value}\n" for name, value in settings.items())
    (directory / f"s3/{FQRN}.conf").write_text(text)
    (directory / f"s3/{FQRN}.conf").chmod(0o400)
    (directory / "keys").mkdir()
    (directory / "repositories.d").mkdir()
    source = directory / "source"
    (source / "bin").mkdir(parents=True)
    (source / "bin/tool").write_text("#!/bin/sh\necho hello\n")
    (source / "bin/tool").chmod(0o755)
    (source / "bin/link").symlink_to("tool")
    os.link(source / "bin/tool", source / "bin/same")
    (source / "big").write_bytes(os.urandom(20_000_000))
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            shutil.chown(path, engine.user, engine.user)
    yield directory
    shutil.rmtree(directory)


def test_confined_container_publishes(engine: Engine, bucket: str, host: pathlib.Path) -> None:
    container = f"{engine.prefix}-publisher"
    engine.output(
        *("run", "--detach", "--name", container, "--network", "host", *CONFINED),
        *(f"--volume={host}/{name}:/etc/cvmfs/{name}" for name in ("keys", "repositories.d")),
        *(f"--volume={host}/s3:/etc/cvmfs/s3:ro", f"--volume={host}/source:/source/release:ro", RELEASE_MANAGER),
    )
    server = ["exec", "--interactive", container, "cvmfs_server"]
    url = f"{ENDPOINT}/{bucket}"
    try:
        engine.output(*server, "mkfs", "-w", url, "-s", f"/etc/cvmfs/s3/{FQRN}.conf", FQRN)
        engine.output(*server, "transaction", FQRN)
        changes = {"source": "/source/release", "base_dir": "sw/1.0", "mode": "mirror"}
        document = json.dumps({"version": 1, "changes": [changes]})
        result = json.loads(engine.output(*server, "publish", "--json", "--changes", "-", FQRN, input=document))
        checked = engine(*server, "check", "-i", FQRN)
    finally:
        logs = engine("logs", container, check=False)
        engine("rm", "--force", "--volumes", container, check=False)
    assert result["revision"] == 2
    assert result["added"] == len(["sw", "sw/1.0", "bin", "bin/tool", "bin/link", "bin/same", "big"])
    assert result["new_objects"] >= len(["tool", "a chunk of big", "another"])
    assert checked.returncode == 0
    with urllib.request.urlopen(f"{url}/{FQRN}/.cvmfspublished") as manifest:  # noqa: S310
        assert b"\nS2\n" in manifest.read()
    assert SECRET_KEY not in logs.stdout + logs.stderr
    # The master key was made for this user alone.
    key = (host / f"keys/{FQRN}.masterkey").stat()
    assert key.st_mode & 0o077 == 0
