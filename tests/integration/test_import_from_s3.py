# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository that a release manager of old keeps in a bucket is taken over there, or copied to another one."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from .conftest import RADOSGW_ADMIN, Site, running_site
from .test_migration import OldReleaseManager

pytestmark = pytest.mark.extended

S3_CONF = """\
CVMFS_S3_HOST={host}
CVMFS_S3_PORT={port}
CVMFS_S3_BUCKET={bucket}
CVMFS_S3_DNS_BUCKETS=false
CVMFS_S3_ACCESS_KEY={access_key}
CVMFS_S3_SECRET_KEY={secret_key}
"""


class OldBucket(OldReleaseManager):
    """A release manager whose storage is a bucket, of a user of its own, as `cvmfs_server mkfs -s` makes it."""

    bucket: str
    prefix: str
    uid: str

    @property
    def s3_conf(self) -> pathlib.Path:
        return self.config / "s3.conf"

    def provide(self, site: Site, bucket: str, prefix: str) -> None:
        """Have the bucket, without any policy: what is public is so by the objects' own ACLs."""
        self.bucket, self.prefix, self.uid = bucket, prefix, f"old-{self.repository}"
        create = [*RADOSGW_ADMIN, "user", "create", f"--uid={self.uid}", "--display-name=Release manager of old"]
        (keys,) = json.loads(subprocess.run(create, check=True, capture_output=True).stdout)["keys"]
        credentials = {"aws_access_key_id": keys["access_key"], "aws_secret_access_key": keys["secret_key"]}
        self.client = boto3.client("s3", endpoint_url=site.endpoint, region_name="us-east-1", **credentials)
        self.client.create_bucket(Bucket=bucket)
        host, port = site.endpoint.removeprefix("http://").split(":")
        self.config.mkdir(parents=True)
        self.s3_conf.write_text(S3_CONF.format(host=host, port=port, bucket=bucket, **keys))
        url = f"{site.endpoint}/{bucket}/{prefix}"
        self.server("mkfs", "-u", f"S3,{self.directory}/spool/tmp,{prefix}@{self.s3_conf}", "-w", url, "-z")
        server_conf = self.config / "repositories.d" / self.repository / "server.conf"
        settings = f"CVMFS_SPOOL_DIR={self.directory}/spool\nCVMFS_UNION_FS_TYPE=none\n"
        server_conf.write_text(server_conf.read_text() + settings)

    def objects(self) -> dict[str, tuple[str, str]]:
        """What is in the bucket, by name: hashes of the content, and who has written it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, FetchOwner=True)
        found = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"]: (item["ETag"], item["Owner"]["ID"]) for item in found}


Old = Callable[[str, str], OldBucket]


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[Site]:
    """A site that is to take a repository over."""
    with running_site(tmp_path / "site", "podman", is_created=False) as site:
        yield site


@pytest.fixture
def new_old(site: Site, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Old]:
    """Make the release manager that it is to be taken from: by bucket, and what comes before the name there."""
    old = OldBucket(tmp_path / "old", site.repository)
    monkeypatch.setenv("CVMFS_CONFIG_DIR", str(old.config))  # for the playbook's own call of cvmfs_server

    def make(bucket: str, path: str = "") -> OldBucket:
        old.provide(site, bucket, path + site.repository)
        return old

    yield make
    remove = [*RADOSGW_ADMIN, "user", "rm", f"--uid=old-{site.repository}", "--purge-data"]
    subprocess.run(remove, check=False, capture_output=True)


def inventory(site: Site, **s3: Any) -> None:
    """Say where the repository is, or is to be."""
    wanted = {"endpoint": site.endpoint, "bucket": site.repository, **s3}
    server = {"CVMFS_GARBAGE_COLLECTION": True}
    site.write_inventory(cvmfs_repositories={site.repository: {"create": False, "s3": wanted, "server": server}})


def test_in_place(site: Site, new_old: Old, source: pathlib.Path) -> None:
    """The old machine is gone, and so is the master key. Nothing is copied, and nothing is signed."""
    old = new_old(site.repository)
    old.publish(source, "-a", "v1")
    (source / "big").write_bytes(b"smaller")
    old.publish(source)
    site.keys.mkdir()
    for kind in ("pub", "crt", "key"):
        shutil.copy(old.config / "keys" / f"{site.repository}.{kind}", site.keys)
    shutil.rmtree(old.directory)
    before = old.objects()

    # Whose bucket it is has to be said
    inventory(site)
    refused = site.play("import", repository=site.repository).expect(2)
    assert "Use the keys of its owner" in refused.output or "AccessDenied" in refused.output, refused.output
    assert old.objects() == before

    inventory(site, rgw_user=old.uid)
    assert site.play("import", "--check", repository=site.repository).expect().changed > 0
    assert old.objects() == before
    run = site.play("import", repository=site.repository).expect()
    assert f"{site.repository} is in revision 3 at {site.url}. Publish to it from now on" in run.output
    assert old.objects() == before
    assert site.play("import", repository=site.repository).expect().changed == 0
    assert not (site.keys / f"{site.repository}.masterkey").exists()

    # It is a repository like any other now, and the new user may take away what the old one has written
    site.play("site").expect()
    site.verify(source, "sw").expect()
    (source / "more").write_text("from a container")
    site.publish(source, "sw", tag="v2").expect()
    site.verify(source, "sw").expect()
    info = site.manager("cvmfs_repository_info")
    assert {"v1", "v2"} < {tag["name"] for tag in info["tags"]}
    (owner,) = {owner for _hash, owner in before.values()}
    now = old.objects()
    assert now[f"{site.repository}/.cvmfspublished"][1] != owner
    assert now[f"{site.repository}/.cvmfswhitelist"] == before[f"{site.repository}/.cvmfswhitelist"]
    for tag in ("v1", "v2"):
        site.play("tag", repository=site.repository, tag=tag, state="absent").expect()
    site.play("gc", repository=site.repository, revisions=0).expect()
    assert before.keys() - old.objects().keys()
    site.verify(source, "sw").expect()


def test_another_bucket_and_place(site: Site, new_old: Old, source: pathlib.Path) -> None:
    """It is below a path, where nothing here would find it. All that is copied is compared with its name."""
    old = new_old(f"{site.repository}-old", "cvmfs/")
    old.publish(source, "-a", "v1")
    inventory(site)
    where = {"repository": site.repository, "host": "localhost", "config": str(old.config)}
    refused = site.play("import", **where).expect(2)
    assert f"CVMFS_UPSTREAM_STORAGE=S3,{old.directory}/spool/tmp,cvmfs/{site.repository}@" in refused.output
    assert not site.keys.joinpath(f"{site.repository}.s3.conf").exists()
    importing = {**where, "source_s3_conf": str(old.s3_conf)}
    whole = old.objects()

    # An object that is not what it is called
    name = next(name for name in whole if "/data/" in name and name[-1].islower())
    good = old.client.get_object(Bucket=old.bucket, Key=name)["Body"].read()
    old.client.put_object(Bucket=old.bucket, Key=name, Body=good[:-1], ACL="public-read")
    assert "do not match their names" in site.play("import", **importing).expect(2).output
    old.client.put_object(Bucket=old.bucket, Key=name, Body=good, ACL="public-read")

    assert site.play("import", "--check", **importing).expect().changed > 0
    first = site.play("import", **importing).expect()
    assert "It is still published to on localhost: run this again, and in the end with -e cut_over=true" in first.output
    assert site.play("import", **importing).expect().changed == 0
    (source / "more").write_text("more")
    old.publish(source)
    assert site.play("import", cut_over=True, **importing).expect().changed > 0
    assert site.play("import", cut_over=True, **importing).expect().changed == 0
    assert "transaction" in old.server("transaction", check=False).stderr
    there = {name.removeprefix("cvmfs/"): hashes for name, (hashes, _owner) in old.objects().items()}
    site.play("site").expect()
    site.verify(source, "sw").expect()
    info = site.manager("cvmfs_repository_info")
    assert "v1" in [tag["name"] for tag in info["tags"]]
    assert any(name.endswith("/.cvmfspublished") for name in there)
    site.publish(source, "elsewhere").expect()


def test_a_bucket_that_the_controller_knows(site: Site, new_old: Old, source: pathlib.Path) -> None:
    """Without the old machine: keys and s3.conf are the controller's."""
    old = new_old(f"{site.repository}-old", "cvmfs/")
    old.publish(source)
    site.keys.mkdir()
    for kind in ("pub", "crt", "key"):
        shutil.copy(old.config / "keys" / f"{site.repository}.{kind}", site.keys)
    s3_conf = site.directory / "old.s3.conf"
    old.s3_conf.rename(s3_conf)
    shutil.rmtree(old.directory)
    inventory(site)
    asked = site.play("import", repository=site.repository, source_s3_conf=str(s3_conf), cut_over=True).expect(2)
    assert "who publishes until now: -e old_release_manager=HOST" in " ".join(asked.output.split())
    importing = {"source_s3_conf": str(s3_conf), "source_s3_prefix": f"cvmfs/{site.repository}"}
    site.play("import", repository=site.repository, **importing).expect()
    assert site.play("import", repository=site.repository, **importing).expect().changed == 0
    site.play("site").expect()
    site.verify(source, "sw").expect()
