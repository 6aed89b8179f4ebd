# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage as the role s3_storage provides it: who may do what, how much, and how fast."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError

from .conftest import RADOSGW_ADMIN, Site, running_site

pytestmark = pytest.mark.roles

Keys = dict[str, str]


def admin(*arguments: str) -> Any:
    """Run radosgw-admin, and return what it says."""
    done = subprocess.run([*RADOSGW_ADMIN, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else None


def s3(endpoint: str, keys: Keys) -> Any:
    """A client of the storage."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose role uses the gateway's admin API, and not radosgw-admin."""
    uid = f"test-admin-{uuid.uuid4().hex[:8]}"
    created = admin("user", "create", f"--uid={uid}", "--display-name=Admin", "--caps=users=*;buckets=*")
    keys = created["keys"][0]
    variables = {
        "s3_storage_radosgw_admin": [],
        "s3_storage_admin_access_key": keys["access_key"],
        "s3_storage_admin_secret_key": keys["secret_key"],
    }
    try:
        with running_site(tmp_path_factory.mktemp("site"), "podman", **variables) as site:
            yield site
    finally:
        admin("user", "rm", f"--uid={uid}")


def test_the_admin_api_does_what_radosgw_admin_does(site: Site) -> None:
    """What one of them has made, the other one finds as it should be."""
    assert site.play("site").expect().changed == 0
    other = {"s3_storage_admin_access_key": "", "s3_storage_radosgw_admin": RADOSGW_ADMIN}
    assert site.play("site", **other).expect().changed == 0


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        (
            {"s3_storage_admin_secret_key": "wrong"},
            r"Cannot GET user by the admin API of \S+: SignatureDoesNotMatch",
        ),
        (
            {
                "s3_storage_admin_access_key": "",
                "s3_storage_radosgw_admin": ["sh", "-c", "echo no keyring >&2; false"],
            },
            r"radosgw-admin cannot look for user \S+: no keyring. Does its command reach the Ceph cluster",
        ),
    ],
)
def test_an_administrator_who_is_refused(site: Site, variables: dict[str, Any], says: str) -> None:
    """It is said why, though the task that finds out has secrets in its result, which are not."""
    run = site.play("site", **variables).expect(2)
    assert re.search(says, " ".join(run.output.split()))
    assert site.secret_key not in run.output


class TestPublisher:
    """The credentials that release managers have are good for the repository, and for nothing else."""

    @pytest.fixture
    def keys(self, site: Site) -> Keys:
        return {"access_key": site.access_key, "secret_key": site.secret_key}

    def test_the_repository_is_published(self, site: Site, source: pathlib.Path) -> None:
        site.publish(source, "sw/1.0").expect()
        site.verify(source, "sw/1.0").expect()

    @pytest.mark.parametrize(
        ("call", "arguments"),
        [
            ("put_object", {"Key": "other.example.org/x", "Body": b""}),
            ("put_object", {"Key": "x", "Body": b""}),
            ("delete_object", {"Key": "other.example.org/x"}),
            ("put_bucket_policy", {"Policy": '{"Version": "2012-10-17", "Statement": []}'}),
            ("delete_bucket_policy", {}),
            ("get_bucket_policy", {}),
            ("put_bucket_acl", {"ACL": "public-read-write"}),
            ("put_bucket_cors", {"CORSConfiguration": {"CORSRules": []}}),
            ("put_bucket_versioning", {"VersioningConfiguration": {"Status": "Enabled"}}),
            ("delete_bucket_lifecycle", {}),
            ("delete_bucket", {}),
            ("create_bucket", {"Bucket": "cvmfs-test-another"}),
        ],
    )
    def test_what_it_cannot_do(self, site: Site, keys: Keys, call: str, arguments: dict[str, Any]) -> None:
        client = s3(site.endpoint, keys)
        with pytest.raises(ClientError, match="AccessDenied"):
            getattr(client, call)(**{"Bucket": site.repository, **arguments})

    def test_many_objects_are_removed_each_for_itself(self, site: Site, keys: Keys) -> None:
        names = {"own": f"{site.repository}/doomed", "others": "other.example.org/kept"}
        owner, publisher = s3(site.endpoint, site.owner_keys()), s3(site.endpoint, keys)
        for name in names.values():
            owner.put_object(Bucket=site.repository, Key=name, Body=b"x")
        answer = publisher.delete_objects(
            Bucket=site.repository, Delete={"Objects": [{"Key": name} for name in names.values()]}
        )
        assert [item["Key"] for item in answer["Deleted"]] == [names["own"]]
        assert [item["Key"] for item in answer["Errors"]] == [names["others"]]
        owner.delete_object(Bucket=site.repository, Key=names["others"])

    def test_the_preflight_refuses_credentials_that_may_do_more(self, site: Site) -> None:
        owner = {"bucket": site.repository, "endpoint": site.endpoint, **site.owner_keys()}
        result = site.module("cvmfs_s3_preflight", prefix=site.repository, confined=True, **owner)
        assert f"may do more with {site.endpoint} than write to {site.repository}/{site.repository}" in result["msg"]
        assert result["failed"]
        free = site.module("cvmfs_s3_preflight", prefix=site.repository, measure=False, **owner)
        assert free["confined"] is False
        assert site.play("site").expect().changed == 0  # and the bucket is as it was

    def test_the_owners_keys_are_kept_nowhere(self, site: Site) -> None:
        secret = site.owner_keys()["secret_key"].encode()
        files = [path for path in site.directory.rglob("*") if path.is_file() and not path.is_symlink()]
        kept = [path for path in files if "collections" not in path.parts]
        assert kept
        assert not [path for path in kept if secret in path.read_bytes()]


def test_repositories_that_share_a_bucket_are_kept_apart(site: Site) -> None:
    """Each has a publisher, who cannot write to the other one; and looking after one leaves the other alone."""
    bucket = f"shared-{uuid.uuid4().hex[:8]}"
    names = [f"{letter}.{bucket}.example.org" for letter in "ab"]
    shared = {"endpoint": site.endpoint, "bucket": bucket, "rgw_user": f"cvmfs-{bucket}"}
    repositories = {"cvmfs_repositories": {name: {"s3": shared} for name in names}, "s3_storage_measure": False}
    try:
        site.play("storage", **repositories).expect()
        only = {"s3_storage_repositories": {names[0]: {"s3": shared}}}
        assert site.play("storage", **repositories, **only).expect().changed == 0
        assert site.play("storage", **repositories).expect().changed == 0
        for name, other in (names, names[::-1]):
            (key,) = admin("user", "info", f"--uid=cvmfs-{name}-publisher")["keys"]
            client = s3(site.endpoint, key)
            client.put_object(Bucket=bucket, Key=f"{name}/x", Body=b"")
            with pytest.raises(ClientError, match="AccessDenied"):
                client.put_object(Bucket=bucket, Key=f"{other}/x", Body=b"")
    finally:
        for uid in (f"cvmfs-{bucket}", *(f"cvmfs-{name}-publisher" for name in names)):
            admin("user", "rm", f"--uid={uid}", "--purge-data")


def test_drift_is_reported(site: Site) -> None:
    """What somebody has changed behind Ansible's back is named in check mode, and repaired without it."""
    assert site.play("storage", "--check", fail_on_difference=True).expect().changed == 0
    client = s3(site.endpoint, site.owner_keys())
    policy = json.loads(client.get_bucket_policy(Bucket=site.repository)["Policy"])
    policy["Statement"].append({**policy["Statement"][0], "Sid": "intruder", "Action": ["s3:PutObject"]})
    client.put_bucket_policy(Bucket=site.repository, Policy=json.dumps(policy))
    admin("user", "modify", f"--uid=cvmfs-{site.repository}-publisher", "--max-buckets=5")
    run = site.play("storage", "--check", "--diff", fail_on_difference=True).expect(2)
    assert run.changed == 2
    for difference in ("intruder", '"name": "max_buckets"', '"current": 5', '"desired": -1'):
        assert difference in run.output
    assert "the storage is, or was, not as the inventory says" in run.output
    assert site.play("storage").expect().changed == 2
    run = site.play("storage", fail_on_difference=True).expect()
    assert run.changed == 0
    assert "put_rate" in run.output


def test_keys_are_replaced_while_a_transaction_is_open(site: Site, source: pathlib.Path) -> None:
    """It goes on with the old key, which is removed when nobody needs it any more."""
    rotation = {"repository": site.repository}
    old = {"access_key": site.access_key, "secret_key": site.secret_key}
    assert (
        f"That of {site.repository} is {old['access_key']}" in site.play("rotate_s3_keys", **rotation).expect(2).output
    )
    rotation["replaces"] = old["access_key"]
    assert site.play("rotate_s3_keys", "--check", **rotation).expect().changed > 0
    assert site.access_key == old["access_key"]
    transaction = site.manager("cvmfs_transaction", sources=[str(source)])["transaction"]["id"]
    run = site.play("rotate_s3_keys", **rotation).expect(2)
    assert f"may have begun with the key {old['access_key']}" in run.output
    new = {"access_key": site.access_key, "secret_key": site.secret_key}
    assert new != old
    for keys in (old, new):
        s3(site.endpoint, keys).put_object(Bucket=site.repository, Key=f"{site.repository}/probe", Body=b"x")
    content = [{"source": str(source), "base_dir": "sw/rotated"}]
    assert site.manager("cvmfs_publish", transaction=transaction, content=content)["changed"]
    assert site.play("rotate_s3_keys", **rotation).expect().changed == 1
    assert site.play("rotate_s3_keys", **rotation).expect().changed == 0
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3(site.endpoint, old).delete_object(Bucket=site.repository, Key=f"{site.repository}/probe")
    s3(site.endpoint, new).delete_object(Bucket=site.repository, Key=f"{site.repository}/probe")
    (source / "more").write_text("more")
    site.publish(source, "sw/rotated").expect()


def test_a_key_stays_as_long_as_a_host_needs_it(site: Site) -> None:
    """One that is away is not there to look for transactions, either."""
    old = {"access_key": site.access_key, "secret_key": site.secret_key}
    rotation = {"repository": site.repository, "replaces": old["access_key"]}
    with site.first_host_away() as away:
        assert f"{away} could not be given the new key" in site.play("rotate_s3_keys", **rotation).expect(4).output
    s3(site.endpoint, old).list_objects_v2(Bucket=site.repository)
    site.play("rotate_s3_keys", **rotation).expect()
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        s3(site.endpoint, old).list_objects_v2(Bucket=site.repository)


def test_a_quota(site: Site) -> None:
    """The bucket's own. What does not fit is refused, and more room is a change of the inventory."""
    try:
        site.s3["quota_bytes"] = 24 << 20
        site.write_inventory(**_admin_variables(site))
        assert site.play("site", "--check").expect().changed == 1
        assert site.play("site").expect().changed == 1
        assert site.play("site").expect().changed == 0
        publisher = s3(site.endpoint, {"access_key": site.access_key, "secret_key": site.secret_key})
        huge = {"Bucket": site.repository, "Key": f"{site.repository}/huge", "Body": bytes(32 << 20)}
        with pytest.raises(ClientError, match="QuotaExceeded"):
            publisher.put_object(**huge)
    finally:
        site.s3.clear()
        site.write_inventory(**_admin_variables(site))
        site.play("site").expect()
    publisher.put_object(**huge)
    publisher.delete_object(Bucket=site.repository, Key=huge["Key"])


def test_further_settings(site: Site, source: pathlib.Path) -> None:
    """Release managers have them: through a proxy that is not there, they do not reach the storage."""
    try:
        site.s3["settings"] = {"CVMFS_S3_PROXY": "http://127.0.0.1:1", "CVMFS_S3_MAX_RETRIES": 0}
        site.write_inventory(**_admin_variables(site))
        site.play("storage").expect()
        site.play("site", "--limit", "release_managers", s3_storage_measure=False)  # creating fails as well
        assert "CVMFS_S3_PROXY=http://127.0.0.1:1\n" in (site.keys / f"{site.repository}.s3.conf").read_text()
        site.publish(source, "proxy").expect(2)
    finally:
        site.s3.clear()
        site.write_inventory(**_admin_variables(site))
        site.play("site").expect()
    site.publish(source, "proxy").expect()


def test_cors(site: Site) -> None:
    """Web pages of one origin may read the bucket, and those of others may not."""
    origin = "https://dashboard.example.org"
    url = f"{site.endpoint}/{site.repository}/{site.repository}/.cvmfspublished"

    def allowed(asking: str) -> str | None:
        request = urllib.request.Request(url, headers={"Origin": asking})  # noqa: S310
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return response.headers["Access-Control-Allow-Origin"]

    assert allowed(origin) is None
    try:
        site.s3["cors_origins"] = [origin]
        site.write_inventory(**_admin_variables(site))
        assert site.play("site", "--check").expect().changed == 1
        assert site.play("site").expect().changed == 1
        assert site.play("site").expect().changed == 0
        assert allowed(origin) == origin
        assert allowed("https://elsewhere.example.org") is None
    finally:
        site.s3.clear()
        site.write_inventory(**_admin_variables(site))
        assert site.play("site").expect().changed == 1
    assert allowed(origin) is None


def _admin_variables(site: Site) -> dict[str, Any]:
    """What the inventory says about the gateway's administrator."""
    host = yaml.safe_load((site.directory / "inventory.yml").read_text())["all"]["hosts"]["localhost"]
    return {name: value for name, value in host.items() if name.startswith("s3_storage_")}
