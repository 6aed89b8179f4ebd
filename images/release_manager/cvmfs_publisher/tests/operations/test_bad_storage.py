# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage that is not there, refuses, fails, or is full: one clear error, or patience, and nothing is half done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import delete_bucket, s3_client
from wire import DROP, LOSE, PASS, UNAVAILABLE, Fate, Proxy, Request

from cvmfs_publisher.repository.lease import CLOCK_MARGIN, LEASE_KEY
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.storage import S3Config
from operations.managers import NAME, ReleaseManager, make, mirror, refusal, s3_settings
from operations.reading import below, on_disk, published

IMPATIENT = {"MAX_RETRIES": "0"}
"""Settings of a release manager that takes the first failure for the last."""


def over(manager: ReleaseManager, name: str, config: S3Config, **settings: str) -> ReleaseManager:
    """Return another release manager for the same repository, with other S3 settings."""
    other = manager.another(name)
    prefix = manager.settings["CVMFS_STRATUM0"].rpartition("/")[2]
    config = dataclasses.replace(config, prefix=prefix)
    other.configure(**s3_settings(config, other.base / "s3.conf", **settings))
    return other


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A source of some hundred objects."""
    return make(tmp_path / "large", **{f"d{n % 10}__f{n}": os.urandom(2000) for n in range(200)})


# Wrong settings


def test_no_such_bucket(s3: ReleaseManager, s3_bucket: S3Config) -> None:
    says = [f"There is no bucket cvmfs-test-none at {s3_bucket.endpoint}", "Create it, or correct CVMFS_S3_BUCKET"]
    for settings in ({}, IMPATIENT):
        other = over(s3, f"other-{len(settings)}", dataclasses.replace(s3_bucket, bucket="cvmfs-test-none"), **settings)
        before = other.files()
        for command in ("mkfs", "info", "transaction", "check"):
            refusal(other.server(command), command, says)
        refusal(other.server("ingest", "-d", "x"), "ingest", says)
        assert other.files() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"access_key": "nobodys"}, ["InvalidAccessKeyId", "Check CVMFS_S3_ACCESS_KEY"]),
        ({"secret_key": "wrong"}, ["SignatureDoesNotMatch", "Check CVMFS_S3_SECRET_KEY"]),
    ],
)
def test_wrong_credentials(s3: ReleaseManager, s3_bucket: S3Config, change: dict[str, str], says: list[str]) -> None:
    other = over(s3, "other", dataclasses.replace(s3_bucket, **change))  # type: ignore[arg-type]
    before = other.files()
    for command in ("mkfs", "info", "transaction", "check"):
        message = refusal(other.server(command), command, [f"s3://{s3_bucket.bucket}/", s3_bucket.endpoint, *says])
        assert s3_bucket.secret_key not in message
    assert other.files() == before


def test_settings_that_are_wrong(s3: ReleaseManager, s3_bucket: S3Config) -> None:
    for settings, says in (
        ({"MAX_RETRY": "3"}, ["CVMFS_S3_MAX_RETRY", "Remove it, or correct its name"]),
        ({"MAX_RETRIES": "many"}, ["CVMFS_S3_MAX_RETRIES=many"]),
        ({"HOST": "http://x"}, ["CVMFS_S3_HOST=http://x", "Leave out http://"]),
        ({"BUCKET": ""}, ["does not set CVMFS_S3_BUCKET"]),
        ({"FLAVOR": "azure"}, ["CVMFS_S3_FLAVOR=azure", "awsv4"]),
    ):
        other = over(s3, f"other-{secrets.token_hex(4)}", s3_bucket, **settings)
        refusal(other.server("info"), "info", [str(other.base / "s3.conf"), *says])
    file = other.base / "s3.conf"
    file.unlink()
    refusal(
        other.server("info"),
        "info",
        [f"Cannot read the S3 settings in {file}", "that the secret with s3.conf is there"],
    )


def test_nobody_listens(s3: ReleaseManager, s3_bucket: S3Config) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = dataclasses.replace(s3_bucket, host="127.0.0.1", port=unused.getsockname()[1])
        impatient = over(s3, "impatient", config, **IMPATIENT)
        says = [config.endpoint, "connection refused", "Check that the address in the configuration is right"]
        for command in ("mkfs", "info", "transaction"):
            refusal(impatient.server(command), command, says)
        patient = over(s3, "patient", config)
        started = time.monotonic()
        outcome = patient.server("ingest", "-d", "x")
        refusal(outcome, "ingest", says)
        assert 5 < time.monotonic() - started < 40
        assert "connection refused; trying again for up to 15 s" in outcome.stderr
        assert not list(patient.spool.rglob("*"))


def test_a_name_that_cannot_be_resolved(s3: ReleaseManager, s3_bucket: S3Config) -> None:
    config = dataclasses.replace(s3_bucket, host="no-such-host.invalid")
    other = over(s3, "other", config, **IMPATIENT)
    refusal(other.server("info"), "info", [config.endpoint, "its name cannot be resolved", "Check that the address"])


# Refusals


def radosgw_admin(*arguments: str) -> Any:
    """Run radosgw-admin where the service is, and return what it prints."""
    container = os.environ.get("CVMFS_TEST_CEPH")
    if not container:
        pytest.skip("needs a Ceph of its own: CVMFS_TEST_CEPH is not set")
    engine = os.environ.get("CVMFS_TEST_ENGINE", "podman")
    argv = [engine, "exec", container, "radosgw-admin", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


@pytest.fixture
def stranger(s3_bucket: S3Config) -> Iterator[S3Config]:
    """Another user of the service, who may read everything in the bucket, as everybody may."""
    uid = f"cvmfs-test-{secrets.token_hex(6)}"
    config = dataclasses.replace(s3_bucket, access_key=uid, secret_key=secrets.token_hex(10))
    keys = ["--access-key", config.access_key, "--secret", config.secret_key]
    radosgw_admin("user", "create", "--uid", uid, "--display-name", uid, *keys)
    try:
        yield config
    finally:
        radosgw_admin("user", "rm", "--uid", uid, "--purge-data")


def test_credentials_that_only_read(
    new_s3: Callable[[], ReleaseManager], s3: ReleaseManager, large: Path, stranger: S3Config
) -> None:
    reader = over(s3, "reader", stranger)
    remedy = "Check that the bucket's policy lets this user read, write and delete"
    # Signed in the same second and for the same time, the whitelist would be the one that is there, and not be written
    resign = ["resign", "-d", "7"]
    for command in (["transaction"], ["ingest", "--directory", large, "-b", "sw"], ["tag", "-a", "mine"], resign):
        reader.refuses(*command, says=["AccessDenied (403)", remedy])
    for command in (["info"], ["check", "-i"], ["tag"], ["ingest", "--dry-run", "--directory", large, "-b", "sw"]):
        reader.server(*command).succeeded()
    new = over(new_s3(), "new", stranger)
    for file in new.keys.iterdir():
        file.unlink()
    before = new.files()
    refusal(new.server("mkfs"), "mkfs", ["AccessDenied (403)", remedy])
    assert new.files() == before
    with new.store() as store:
        assert list(store.list("")) == []


def test_a_bucket_that_refuses_objects(
    s3: ReleaseManager, s3_bucket: S3Config, large: Path, stranger: S3Config
) -> None:
    """Leases can be written, but what is published cannot."""
    writer = over(s3, "writer", stranger)
    prefix = writer.settings["CVMFS_STRATUM0"].rpartition("/")[2]
    with policy(s3_bucket, stranger, f"{prefix}/.cvmfs*"):
        says = [f"s3://{s3_bucket.bucket}/{prefix}/data/", "AccessDenied (403)", "Check that the bucket's policy lets"]
        writer.refuses("ingest", "--directory", large, "-b", "sw", says=says)
    with policy(s3_bucket, stranger, f"{prefix}/*"):
        writer.server("ingest", "--directory", large, "-b", "sw").succeeded()
    assert below(published(s3).tree, b"sw") == on_disk(large)


@contextlib.contextmanager
def policy(bucket: S3Config, user: S3Config, objects: str) -> Iterator[None]:
    """Let another user write some of a bucket's objects, and everybody read, as before."""
    client = s3_client(bucket.endpoint, bucket.access_key, bucket.secret_key)
    before = client.get_bucket_policy(Bucket=bucket.bucket)["Policy"]
    document = json.loads(before)
    document["Statement"].append(
        {
            "Effect": "Allow",
            "Principal": {"AWS": [f"arn:aws:iam:::user/{user.access_key}"]},
            "Action": ["s3:PutObject", "s3:PutObjectAcl", "s3:DeleteObject"],
            "Resource": [f"arn:aws:s3:::{bucket.bucket}/{objects}"],
        }
    )
    client.put_bucket_policy(Bucket=bucket.bucket, Policy=json.dumps(document))
    try:
        yield
    finally:
        client.put_bucket_policy(Bucket=bucket.bucket, Policy=before)


def test_a_quota(s3_new: ReleaseManager, large: Path, stranger: S3Config) -> None:
    """It is reached in the middle of a publish; when it is raised, the next publish succeeds.

    Nothing at all can be written meanwhile, so that the lease ends by expiring.
    """
    bucket = f"cvmfs-test-{secrets.token_hex(6)}"
    client = s3_client(stranger.endpoint, stranger.access_key, stranger.secret_key)
    client.create_bucket(Bucket=bucket)
    try:
        mine = over(s3_new, "mine", dataclasses.replace(stranger, bucket=bucket))
        mine.server("mkfs").succeeded()
        uid = stranger.access_key
        radosgw_admin("quota", "set", "--quota-scope=user", f"--uid={uid}", "--max-objects=60")
        radosgw_admin("quota", "enable", "--quota-scope=user", f"--uid={uid}")
        says = ["QuotaExceeded (403)", "Raise the quota of the bucket or its user, or collect garbage"]
        before = mine.state()
        refusal(mine.server("ingest", "--directory", large, "-b", "sw"), "ingest", says)
        assert dataclasses.replace(mine.state(), lease_is_free=True) == before
        radosgw_admin("quota", "disable", "--quota-scope=user", f"--uid={uid}")
        deadline = time.monotonic() + 30
        while mine.server("abort", "-f").code and time.monotonic() < deadline:
            time.sleep(0.5)  # the service takes its time to notice
        mine.server("ingest", "--directory", large, "-b", "sw").succeeded()
        mine.check()
    finally:
        delete_bucket(client, bucket)


def test_storage_without_conditions(s3: ReleaseManager, s3_bucket: S3Config, source: Path) -> None:
    """A service that ignores If-Match would let publishers overwrite each other, so nothing is published there."""

    def forget_conditions(request: Request) -> Fate:
        request.headers.pop("if-match", None)
        return PASS

    with Proxy(s3_bucket, rule=forget_conditions) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket))
        says = ["does not honour If-Match on PUT", "use a store with conditional writes"]
        for command in (["transaction"], ["ingest", "--directory", source, "-b", "sw"], ["tag", "-a", "mine"]):
            message = refusal(other.server(*command), command[0], says)  # type: ignore[arg-type]
            assert s3_bucket.bucket in message
    assert published(s3).revision == 1


# Failures of the network


def through(proxy: Proxy, config: S3Config) -> S3Config:
    return dataclasses.replace(config, host="127.0.0.1", port=proxy.port)


def writes(request: Request, key: str = "/data/") -> bool:
    return request.method == "PUT" and key in request.target


def after(number: int, key: str = "/data/") -> Callable[[Request], bool]:
    """Return a condition that is true once so many objects have been written, and ever after."""
    seen = 0
    lock = threading.Lock()

    def reached(request: Request) -> bool:
        nonlocal seen
        with lock:
            seen += writes(request, key)
            return seen > number

    return reached


@pytest.mark.parametrize("number", [0, 1, 40, 199, 201])
def test_an_endpoint_that_dies_for_good(s3: ReleaseManager, s3_bucket: S3Config, large: Path, number: int) -> None:
    """In the middle of a publish. The old revision stays, and so does the lease until it expires."""
    dead = after(number)
    with Proxy(s3_bucket, rule=lambda request: DROP if dead(request) else PASS) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket), **IMPATIENT)
        outcome = other.server("ingest", "--directory", large, "-b", "sw")
        says = [f"127.0.0.1:{proxy.port}", "the connection broke down", "when the store is well"]
        refusal(outcome, "ingest", says)
    assert not list(other.spool.iterdir())
    assert not list(other.tmp.iterdir())
    assert published(s3).revision == 1
    s3.check()
    s3.refuses("ingest", "-d", "new_repository", says=["has a transaction open", "cvmfs_server abort -f"])
    s3.expire_lease(CLOCK_MARGIN + 1)
    s3.ingest(mirror(large))
    assert below(published(s3).tree, b"sw") == on_disk(large)


def test_an_endpoint_that_dies_in_a_transaction(s3: ReleaseManager, s3_bucket: S3Config, large: Path) -> None:
    """The transaction stays open, and can be published when the endpoint is back."""
    dead = after(30)
    with Proxy(s3_bucket) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket), **IMPATIENT)
        other.server("transaction").succeeded()
        changes = other.base / "changes.json"
        change = {"source": str(large), "base_dir": "sw", "mode": "mirror"}
        changes.write_text(json.dumps({"version": 1, "changes": [change]}))
        before = other.files()
        proxy.rule = lambda request: DROP if dead(request) else PASS
        refusal(other.server("publish", "--changes", changes), "publish", ["the connection broke down"])
        refusal(other.server("abort", "-f"), "abort", ["the connection broke down"])
        assert other.files() == before
        proxy.rule = lambda _: PASS
        assert other.server("publish", "--json", "--changes", changes).succeeded().document["revision"] == 2
    assert below(published(s3).tree, b"sw") == on_disk(large)


@pytest.mark.parametrize("key", [LEASE_KEY, MANIFEST_KEY])
def test_an_answer_that_never_comes(s3: ReleaseManager, s3_bucket: S3Config, source: Path, key: str) -> None:
    """The service has done what it was asked for, but nobody knows: the error says so."""

    def rule(request: Request) -> Fate:
        return LOSE if writes(request, key) else PASS

    s3.ingest(mirror(make(source.parent / "old", old="old")))
    with Proxy(s3_bucket, rule=rule) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket), **IMPATIENT)
        outcome = other.server("ingest", "--mirror", "--directory", source, "-b", "sw")
        refusal(outcome, "ingest", [f"it is not known whether {key} was written", "Look at the repository"])
    assert not list(other.spool.iterdir())
    if key == MANIFEST_KEY:
        assert published(s3).revision == 3
        assert below(published(s3).tree, b"sw") == on_disk(source)
    s3.expire_lease(CLOCK_MARGIN + 1)
    s3.ingest(mirror(source), tag="after")
    assert below(published(s3).tree, b"sw") == on_disk(source)
    s3.check()


def test_an_endpoint_that_comes_back(s3: ReleaseManager, s3_bucket: S3Config, large: Path) -> None:
    """It is away for some seconds, and the publish waits."""
    away = after(50)
    began: list[float] = []

    def rule(request: Request) -> Fate:
        if not away(request):
            return PASS
        began.append(time.monotonic())
        return DROP if time.monotonic() - began[0] < 4 else PASS

    with Proxy(s3_bucket, rule=rule) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket))
        outcome = other.server("ingest", "--json", "--directory", large, "-b", "sw", real=True).succeeded()
    assert outcome.document["revision"] == 2
    assert f"127.0.0.1:{proxy.port}: the connection broke down; trying again for up to 300 s" in outcome.stderr
    assert below(published(s3).tree, b"sw") == on_disk(large)
    s3.check()


@pytest.mark.parametrize("seed", range(3))
def test_bursts_of_failures(s3: ReleaseManager, s3_bucket: S3Config, large: Path, seed: int) -> None:
    """Refused, broken off, done but not answered: each a fifth of all requests, in no order."""
    choice = random.Random(seed)  # noqa: S311
    fates = [UNAVAILABLE, DROP, LOSE, PASS, PASS]
    with Proxy(s3_bucket, rule=lambda _: choice.choice(fates)) as proxy:
        other = over(s3, "other", through(proxy, s3_bucket), BACKOFF_INIT="1", BACKOFF_MAX="50")
        document = other.server("ingest", "--json", "--directory", large, "-b", "sw").succeeded().document
        assert (document["revision"], document["warnings"]) == (2, [])
        other.server("ingest", "-d", "new_repository").succeeded()
        other.server("tag", "-a", "mine").succeeded()
        other.server("check", "-i").succeeded()
    assert published(s3).revision == 3
    assert below(published(s3).tree, b"sw") == on_disk(large)
    assert s3.state().lease_is_free
    s3.check()


# Local storage


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a small file system."""
    directory.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_local_storage_that_refuses(local: ReleaseManager, source: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    (storage / "data" / "txn").chmod(0o555)
    says = [f"Cannot write {storage}/", "Permission denied", "Run as the user who owns the repository's storage"]
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says, confined=True)
    assert local.server("info", confined=True).succeeded()


def test_local_storage_that_is_full(local: ReleaseManager, large: Path, tmp_path: Path) -> None:
    storage = tmp_path / "small" / "storage"
    with small_disk(tmp_path / "small", "400k"):
        shutil.copytree(tmp_path / "storage", storage)
        local.configure(CVMFS_UPSTREAM_STORAGE=f"local,{storage}/data/txn,{storage}")
        says = [f"Cannot write {storage}/", "No space left on device", "Free space on that file system"]
        outcome = local.server("ingest", "--directory", large, "-b", "sw")
        refusal(outcome, "ingest", says)
        assert published(local).revision == 1
        local.check()


def test_local_storage_that_is_not_there(local: ReleaseManager, tmp_path: Path) -> None:
    """Nothing is made by looking for it."""
    place = tmp_path / "elsewhere" / "storage"
    local.configure(CVMFS_UPSTREAM_STORAGE=f"local,{place}/data/txn,{place}")
    for command in ("info", "check", "transaction"):
        says = [f"There is no repository {NAME} in directory {place}", "Check CVMFS_UPSTREAM_STORAGE, or create it"]
        refusal(local.server(command), command, says)
    assert not (tmp_path / "elsewhere").exists()


# The scratch disk


def many_files(directory: Path) -> Path:
    return make(directory, **{f"file-with-a-long-name-{n:04}": "" for n in range(3000)})


def test_a_full_scratch_disk_for_catalogs(manager: ReleaseManager, tmp_path: Path) -> None:
    source = many_files(tmp_path / "source")
    with small_disk(manager.spool, "256k"):
        message = manager.refuses("ingest", "--directory", source, "-b", "sw", says=[str(manager.spool), "pace"])
        assert "Make room" in message or "Free" in message
    manager.server("ingest", "--directory", source, "-b", "sw").succeeded()
    manager.check()


def test_a_full_scratch_disk_for_the_current_catalogs(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(many_files(tmp_path / "source")))
    with small_disk(local.spool, "256k"):
        for command in (["ingest", "-d", "new_repository"], ["ingest", "--dry-run", "-d", "new_repository"]):
            local.refuses(*command, says=[str(local.spool), "pace"])


def test_a_full_scratch_disk_for_archives(local: ReleaseManager, tmp_path: Path) -> None:
    source = many_files(tmp_path / "source")
    tar = subprocess.run(["tar", "-C", source, "-c", "."], capture_output=True, check=True).stdout
    with small_disk(local.spool, "256k"):
        local.refuses("ingest", "-t", "-", "-b", "sw", stdin=tar, says=["pace"])
    local.server("ingest", "-t", "-", "-b", "sw", stdin=tar).succeeded()


def test_a_full_scratch_disk_for_large_files(local: ReleaseManager, tmp_path: Path) -> None:
    source = make(tmp_path / "source", large=os.urandom(2_000_000))
    local.configure(CVMFS_USE_FILE_CHUNKING="false")
    with small_disk(local.spool, "512k"):
        local.refuses(
            "ingest", "--directory", source, "-b", "sw", says=[str(local.spool), "No space left", "Make room"]
        )


def test_a_full_scratch_disk_for_sessions(local: ReleaseManager) -> None:
    with small_disk(local.spool, "16k"):
        (local.spool / "full").write_bytes(b"x" * 16384)
        for command in (["transaction"], ["ingest", "-d", "x"]):
            local.refuses(*command, says=[str(local.spool), "No space left on device", "Make room"])
        (local.spool / "full").unlink()
        local.server("transaction").succeeded()


def test_a_scratch_disk_that_is_read_only(local: ReleaseManager) -> None:
    local.configure(CVMFS_SPOOL_DIR="/proc/spool")
    for command in (["transaction"], ["ingest", "-d", "x"], ["ingest", "--dry-run", "-d", "x"]):
        outcome = local.server(*command)
        refusal(outcome, command[0], ["/proc/spool", "CVMFS_SPOOL_DIR"])


def test_a_full_scratch_disk_for_a_check(local: ReleaseManager, tmp_path: Path) -> None:
    local.ingest(mirror(many_files(tmp_path / "source")))
    with small_disk(local.spool, "64k"):
        refusal(local.server("check"), "check", [str(local.spool), "pace"])
    local.server("check").succeeded()


@pytest.fixture
def grown(local: ReleaseManager, tmp_path: Path) -> ReleaseManager:
    """A release manager whose repository has a catalog of more than 256 kB."""
    local.ingest(mirror(many_files(tmp_path / "source")))
    return local


def commands_that_read(manager: ReleaseManager) -> list[list[str]]:
    """Return command lines that need a scratch disk for catalogs and publish nothing, but for a tag."""
    root = f"@{manager.manifest().root_hash.hex}"
    return [
        ["list-catalogs"],
        ["list-catalogs", "--json"],
        ["diff", "-s", root, "-d", root],
        ["tag", "-a", "mine", "-h", root[1:]],
    ]


def test_a_full_scratch_disk_for_reading(grown: ReleaseManager) -> None:
    with small_disk(grown.spool, "64k"):
        for command in commands_that_read(grown):
            grown.refuses(*command, says=[str(grown.spool), "No space left on device", "Free space"])
    for command in commands_that_read(grown):
        grown.server(*command).succeeded()


def test_a_scratch_disk_that_is_read_only_for_reading(grown: ReleaseManager) -> None:
    commands = commands_that_read(grown)
    grown.configure(CVMFS_SPOOL_DIR="/proc/spool")
    for command in commands:
        refusal(grown.server(*command), command[0], ["/proc/spool", "CVMFS_SPOOL_DIR"])


def test_reading_leaves_the_place_for_temporary_files_alone(grown: ReleaseManager, tmp_path: Path) -> None:
    """It is in memory in our containers."""
    with small_disk(tmp_path / "small", "4k") as directory:
        grown.environ["TMPDIR"] = str(directory)
        for command in commands_that_read(grown):
            grown.server(*command).succeeded()


def test_a_full_scratch_disk_for_statistics(local: ReleaseManager, source: Path) -> None:
    local.configure(CVMFS_UPLOAD_STATS_DB="true")
    local.ingest(mirror(source))
    (local.spool / "stats.db").unlink()
    with small_disk(local.spool, "16k"):
        refusal(local.server("print-stats"), "print-stats", [str(local.spool), "No space left on device", "Free space"])
    local.server("print-stats").succeeded()


# What nobody has thought of


def test_a_directory_that_cannot_be_read(local: ReleaseManager) -> None:
    """A failure of the operating system that has no error of its own is a message, too."""
    directory = local.config_dir / "repositories.d"
    directory.chmod(0o300)
    outcome = local.run("list", confined=True)
    refusal(outcome, "list", [f"{directory}: Permission denied"])


def test_an_output_that_is_full(local: ReleaseManager) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            local.argv("info"), stdout=full, stderr=subprocess.PIPE, env=local.process_environment, check=False
        )
    message = "cvmfs_server info: No space left on device. Mend that on this machine, then run the command again."
    assert (done.returncode, done.stderr.decode().strip()) == (1, message)
