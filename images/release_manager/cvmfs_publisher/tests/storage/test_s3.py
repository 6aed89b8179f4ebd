# SPDX-License-Identifier: GPL-3.0-or-later
"""What is particular to S3, on a real service, with faults on the wire."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import delete_bucket, s3_client
from wire import DROP, LOSE, LOSE_AND_SAY_503, PASS, UNAVAILABLE, Fate, Proxy, Request, answer, stopwatch

from cvmfs_publisher.errors import (
    AccessDenied,
    EndpointUnreachable,
    ObjectNotFound,
    OvertakenWrite,
    PreconditionFailed,
    PublisherError,
    QuotaExceeded,
    StorageError,
    UnansweredDeletion,
)
from cvmfs_publisher.storage import Cancellation, HttpStore, Permit, S3Config, S3Store, Version, open_store, preflight
from cvmfs_publisher.storage.retry import RetryPolicy

pytestmark = pytest.mark.usefixtures("no_thread_leaks")
MakeS3 = Callable[..., S3Store]


def through(proxy: Proxy, make_s3: MakeS3, **changes: Any) -> S3Store:
    """A store behind the proxy that has had its first answer."""
    store = make_s3(host="127.0.0.1", port=proxy.port, **changes)
    store.exists("first contact")
    proxy.requests.clear()
    return store


# What readers get


def test_everybody_reads_with_cvmfs_headers(store_s3: S3Store, s3_config: S3Config) -> None:
    store_s3.put(".cvmfspublished", b"manifest")
    store_s3.put("data/ab/cd", b"content")
    store_s3.put("info/v1/meta.json", b"{}")
    store_s3.put("index.html", b"<html>", cache_control="no-cache", content_type="text/plain")
    seen = {}
    for key in (".cvmfspublished", "data/ab/cd", "info/v1/meta.json", "index.html"):
        connection = http.client.HTTPConnection(s3_config.host, s3_config.port)
        connection.request("GET", f"/{s3_config.bucket}/{s3_config.prefix}/{key}")
        response = connection.getresponse()
        response.read()
        seen[key] = (response.status, response.headers["cache-control"], response.headers["content-type"])
        connection.close()
    assert seen == {
        ".cvmfspublished": (200, "max-age=61", "application/x-cvmfs"),
        "data/ab/cd": (200, "max-age=259200", "application/octet-stream"),
        "info/v1/meta.json": (200, "max-age=61", "application/json"),
        "index.html": (200, "no-cache", "text/plain"),
    }


def test_conditional_writes_have_cvmfs_headers(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3)
    store.put_if_match(".cvmfspublished", b"2", store.put_if_absent(".cvmfspublished", b"1"))
    writes = [request for request in proxy.requests if request.target.endswith("/.cvmfspublished")]
    assert [request.headers["cache-control"] for request in writes] == ["max-age=61"] * 2


@pytest.mark.parametrize("acl", ["public-read", "private", ""])
def test_objects_get_the_configured_acl(make_s3: MakeS3, s3_config: S3Config, acl: str) -> None:
    make_s3(acl=acl).put("data/ab/cd", b"x")
    client = s3_client(s3_config.endpoint, s3_config.access_key, s3_config.secret_key)
    grants = client.get_object_acl(Bucket=s3_config.bucket, Key=f"{s3_config.prefix}/data/ab/cd")["Grants"]
    public = [grant for grant in grants if grant["Grantee"].get("URI", "").endswith("/AllUsers")]
    assert bool(public) == (acl == "public-read")


def test_http_store_reads_and_refuses_to_write(store_s3: S3Store, store_http: HttpStore) -> None:
    store_s3.put("data/ab/cd+e", b"content")
    assert store_http.get("data/ab/cd+e") == b"content"
    assert store_http.exists("data/ab/cd+e")
    assert not store_http.exists("data/ab/none")
    with pytest.raises(ObjectNotFound, match="data/ab/none"):
        store_http.get("data/ab/none")
    for write in (
        lambda: store_http.put("a", b""),
        lambda: store_http.put_if_absent("a", b""),
        lambda: store_http.put_if_match("a", b"", Version("")),
        lambda: store_http.delete("a"),
    ):
        with pytest.raises(StorageError, match="can only be read"):
            write()


def test_does_not_look_before_writing(proxy: Proxy, make_s3: MakeS3) -> None:
    through(proxy, make_s3).put("data/ab/cd", b"x")
    assert [request.method for request in proxy.requests] == ["PUT"]


def test_looks_before_writing_when_told(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3, peek=True)
    store.put("data/ab/cd", b"x")
    store.put("data/ab/cd", b"x")
    store.put(".cvmfspublished", b"x")
    assert [request.method for request in proxy.requests] == ["HEAD", "PUT", "HEAD", "PUT"]


# Ways to reach a bucket


def test_bucket_in_the_host_name_and_a_proxy(
    proxy: Proxy, make_s3: MakeS3, store_s3: S3Store, s3_config: S3Config
) -> None:
    store = make_s3(host="storage.test", port=None, dns_buckets=True, proxy=f"http://127.0.0.1:{proxy.port}")
    store.put("data/ab/cd", b"x")
    assert store_s3.get("data/ab/cd") == b"x"
    assert [item.key for item in store.list("data/")] == ["data/ab/cd"]
    host = f"{s3_config.bucket}.storage.test"
    assert proxy.requests[0].target == f"http://{host}/{s3_config.prefix}/data/ab/cd"
    assert {request.headers["host"] for request in proxy.requests} == {host}


def test_https_with_an_own_authority(
    s3_config: S3Config, make_s3: MakeS3, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with Proxy(s3_config, tls=tls) as proxy:
        place = {"host": "127.0.0.1", "port": proxy.port, "https": True}
        store = make_s3(**place, ca_bundle=str(certificate))
        for _ in range(5):
            store.put("data/ab/cd", b"x" * 300_000)
        assert proxy.connections == 1, "encrypted connections are kept"
        patient = RetryPolicy(first_contact=60)
        with stopwatch() as elapsed, pytest.raises(EndpointUnreachable, match=r"not trusted.*X509_CERT_BUNDLE"):
            make_s3(**place, retry=patient).get("data/ab/cd")
        assert elapsed() < 30, "it is not tried again"
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert make_s3(**place).get("data/ab/cd") == b"x" * 300_000


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


# Conditions


def forms(accepted: str) -> Callable[[Request], Fate]:
    """A service that takes If-Match in one form only, or not at all, built on one that takes it without quotes."""

    def rule(request: Request) -> Fate:
        etag = request.headers.pop("if-match", None)
        if etag is None or accepted == "none":
            return PASS
        if accepted == "refused" or (etag.startswith('"') != (accepted == "quoted")):
            return Fate(forward=False, answer=answer(412, "PreconditionFailed"))
        request.headers["if-match"] = etag.strip('"')
        return PASS

    return rule


@pytest.mark.parametrize("form", ["quoted", "unquoted"])
def test_finds_the_form_of_conditions(proxy: Proxy, make_s3: MakeS3, form: str) -> None:
    proxy.rule = forms(form)
    store = through(proxy, make_s3)
    version = store.put_if_absent("manifest", b"1")
    version = store.put_if_match("manifest", b"2", version)
    probes = len(proxy.requests)
    assert probes > 3
    store.put_if_match("manifest", b"3", version)
    assert len(proxy.requests) == probes + 1, "the form is probed once only"
    with pytest.raises(PreconditionFailed):
        store.put_if_match("manifest", b"4", version)
    assert store.condition_form == form
    assert {item.key for item in store.list("")} == {"manifest"}


@pytest.mark.parametrize("service", ["none", "refused"])
def test_refuses_a_service_without_conditions(proxy: Proxy, make_s3: MakeS3, service: str) -> None:
    proxy.rule = forms(service)
    store = through(proxy, make_s3)
    version = store.put("manifest", b"1")
    with pytest.raises(StorageError, match="does not honour If-Match on PUT"):
        store.put_if_match("manifest", b"2", version)
    with pytest.raises(StorageError, match="does not honour If-Match on PUT"):
        preflight(store)
    assert store.get("manifest") == b"1"
    assert {item.key for item in store.list("")} == {"manifest"}


def test_preflight_notices_ignored_creation_conditions(proxy: Proxy, make_s3: MakeS3) -> None:
    def rule(request: Request) -> Fate:
        request.headers.pop("if-none-match", None)
        return PASS

    proxy.rule = rule
    with pytest.raises(StorageError, match="does not honour If-None-Match"):
        preflight(through(proxy, make_s3))


def test_preflight_tries_what_clients_do(store_s3: S3Store, store_http: HttpStore) -> None:
    report = preflight(store_s3, store_http)
    assert report.anonymous_read is True
    assert report.condition_form in ("quoted", "unquoted")


def test_preflight_notices_what_clients_cannot_do(s3_config: S3Config) -> None:
    """A bucket without policy, and one that answers 403 for missing objects."""
    client = s3_client(s3_config.endpoint, s3_config.access_key, s3_config.secret_key)
    bucket = f"{s3_config.bucket}-closed"
    client.create_bucket(Bucket=bucket)
    try:
        closed = dataclasses.replace(s3_config, bucket=bucket, acl="")
        with (
            S3Store(closed) as store,
            HttpStore(f"{closed.endpoint}/{bucket}/{closed.prefix}") as public,
        ):
            with pytest.raises(StorageError, match=r"Clients cannot read the repository.*policy"):
                preflight(store, public)
            statement = {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject"],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            }
            client.put_bucket_policy(
                Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            )
            with pytest.raises(StorageError, match=r"403 instead of 404.*s3:ListBucket"):
                preflight(store, public)
            assert not list(store.list(""))
    finally:
        delete_bucket(client, bucket)


# Failures that pass


@pytest.mark.parametrize(
    "fate",
    [
        UNAVAILABLE,
        DROP,
        LOSE,
        LOSE_AND_SAY_503,
        Fate(cut=20),
        Fate(forward=False, answer=answer(429, "SlowDown")),
        Fate(forward=False, answer=answer(500, "InternalError")),
        Fate(forward=False, answer=answer(504)),
        Fate(forward=False, answer=answer(409, "OperationAborted")),
        Fate(forward=False, answer=answer(400, "RequestTimeout")),
        Fate(forward=False, answer=answer(400, "XAmzContentSHA256Mismatch")),
        Fate(forward=False, answer=b"nonsense\r\n\r\n"),
        Fate(delay=4),
    ],
    ids=repr,
)
def test_survives(proxy: Proxy, make_s3: MakeS3, fate: Fate) -> None:
    """Each operation succeeds in spite of two failures, whatever the kind of failure."""
    store = through(proxy, make_s3, **({"timeout": 1.5} if fate.delay else {}))
    twice = [fate] * 2
    large = bytes(range(256)) * 4000
    proxy.plan = list(twice)
    version = store.put("data/ab/cd", large)
    proxy.plan = list(twice)
    assert store.get_versioned("data/ab/cd") == (large, version)
    proxy.plan = list(twice)
    assert store.exists("data/ab/cd")
    proxy.plan = list(twice)
    created = store.put_if_absent("lease", b"mine")
    assert store.condition_form
    proxy.plan = list(twice)
    replaced = store.put_if_match("lease", b"renewed", created)
    proxy.plan = list(twice)
    assert [item.key for item in store.list("lease")] == ["lease"]
    assert store.get_versioned("lease") == (b"renewed", replaced)
    proxy.plan = list(twice)
    store.delete("lease")
    assert not store.exists("lease")


def test_knows_its_own_write_from_that_of_others(proxy: Proxy, make_s3: MakeS3, store_s3: S3Store) -> None:
    """After a lost answer, the condition fails either way; only the object tells who has won."""
    store = through(proxy, make_s3)
    version = store.put("manifest", b"1")
    assert store.condition_form
    proxy.plan = [LOSE]
    version = store.put_if_match("manifest", b"2", version)
    assert store_s3.get_versioned("manifest") == (b"2", version)

    store_s3.put("manifest", b"theirs")
    proxy.plan = [DROP]
    with pytest.raises(PreconditionFailed):
        store.put_if_match("manifest", b"3", version)

    store_s3.delete("manifest")
    proxy.plan = [DROP]
    with pytest.raises(PreconditionFailed):
        store.put_if_match("manifest", b"3", version)

    store_s3.put("lease", b"theirs")
    proxy.plan = [DROP]
    with pytest.raises(PreconditionFailed):
        store.put_if_absent("lease", b"mine")


def test_does_not_take_an_equal_object_for_its_own_write(store_s3: S3Store) -> None:
    store_s3.put_if_absent("lease", b"same")
    with pytest.raises(PreconditionFailed):
        store_s3.put_if_absent("lease", b"same")


def test_replaces_connections_that_the_service_has_closed(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3)
    store.put("a", b"1")
    store.put("a", b"2")
    assert proxy.connections == 1
    proxy.hang_up()
    store.put("a", b"3")
    assert proxy.connections == 2
    assert len(proxy.requests) == 3, "no request was lost"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, by and by."""
    seconds: list[float] = []
    sleep = time.sleep

    def note(duration: float) -> None:
        seconds.append(duration)
        sleep(duration)

    monkeypatch.setattr(time, "sleep", note)
    return seconds


def test_backs_off_exponentially_and_reports(proxy: Proxy, make_s3: MakeS3, slept: list[float]) -> None:
    notes: list[str] = []
    store = through(proxy, make_s3, notify=notes.append, retry=RetryPolicy(initial=0.2, maximum=0.8, total=60))
    proxy.plan = [UNAVAILABLE] * 5
    before = store.traffic
    with stopwatch() as elapsed:
        store.put("a", b"x")
    for seconds, longest in zip(slept, (0.2, 0.4, 0.8, 0.8, 0.8), strict=True):
        assert longest / 2 <= seconds <= longest
    assert (store.traffic.requests - before.requests, store.traffic.retries - before.retries) == (1, 5)
    assert sum(slept) < store.traffic.seconds - before.seconds < elapsed()
    assert notes == [f"http://127.0.0.1:{proxy.port}: status 503 ServiceUnavailable; trying again for up to 60 s"]


def test_waits_as_long_as_the_service_asks(proxy: Proxy, make_s3: MakeS3, slept: list[float]) -> None:
    store = through(proxy, make_s3)
    proxy.plan = [Fate(forward=False, answer=answer(503, "SlowDown", Retry_After="1"))]
    store.put("a", b"x")
    assert slept == [1]


# Failures that stay


def test_gives_up_in_time(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3, retry=RetryPolicy(initial=0.1, maximum=0.3, total=2))
    proxy.rule = lambda _: UNAVAILABLE
    with stopwatch() as elapsed, pytest.raises(EndpointUnreachable) as caught:
        store.put("data/ab/cd", b"x")
    assert 1 < elapsed() < 20, "not as long as by default"
    assert len(proxy.requests) >= 5
    for part in ("PUT", "data/ab/cd", str(proxy.port), "503", "Run the command again"):
        assert part in str(caught.value)


def test_repeats_at_least_as_often_as_configured(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3, retry=RetryPolicy(initial=0.1, maximum=0.1, total=0, at_least=4))
    proxy.rule = lambda _: UNAVAILABLE
    with pytest.raises(EndpointUnreachable):
        store.put("a", b"x")
    assert len(proxy.requests) == 5


def test_says_that_the_outcome_of_a_conditional_write_is_unknown(proxy: Proxy, make_s3: MakeS3) -> None:
    store = through(proxy, make_s3, retry=RetryPolicy(initial=0.1, maximum=0.1, total=0.3))
    version = store.put("manifest", b"1")
    assert store.condition_form
    proxy.rule = lambda _: LOSE
    with pytest.raises(EndpointUnreachable, match="not known whether manifest was written"):
        store.put_if_match("manifest", b"2", version)


@pytest.mark.parametrize("change", [{"port": 1}, {"host": "no-such-host.invalid"}], ids=str)
def test_does_not_wait_long_for_what_never_answered(
    make_s3: MakeS3, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if "host" in change:
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    retry = RetryPolicy(total=300, first_contact=1.5)
    with stopwatch() as elapsed, pytest.raises(EndpointUnreachable, match="Check that the address"):
        make_s3(**change, retry=retry).get(".cvmfspublished")
    assert elapsed() < 30


@pytest.mark.parametrize(("size", "patient"), [(10, False), (100_000, True)])
def test_waits_for_a_large_first_request(proxy: Proxy, make_s3: MakeS3, size: int, patient: bool) -> None:
    """A slow line is no reason to take the service for dead."""
    store = make_s3(host="127.0.0.1", port=proxy.port, retry=RetryPolicy(initial=0.1, first_contact=1))
    proxy.rule = lambda _: Fate(delay=7)
    if patient:
        store.put("data/ab/cd", bytes(size))
    else:
        with pytest.raises(EndpointUnreachable, match="no answer within 5 s"):
            store.put("data/ab/cd", bytes(size))


def test_default_patience() -> None:
    policy = RetryPolicy.from_settings(None, 0.1, 10)
    assert (policy.total, policy.first_contact) == (300, 15)


@pytest.mark.parametrize(
    ("status", "code", "error", "text"),
    [
        (403, "AccessDenied", AccessDenied, "policy"),
        (403, "RequestTimeTooSkewed", AccessDenied, "clock"),
        (403, "QuotaExceeded", QuotaExceeded, "quota"),
        (507, "", QuotaExceeded, "quota"),
        (400, "AccessControlListNotSupported", StorageError, "CVMFS_S3_X_AMZ_ACL"),
        (301, "PermanentRedirect", StorageError, "CVMFS_S3_REGION"),
        (400, "EntityTooLarge", StorageError, "EntityTooLarge.*CVMFS_USE_FILE_CHUNKING=true"),
        (413, "", StorageError, "CVMFS_USE_FILE_CHUNKING=true"),
        (501, "NotImplemented", StorageError, "NotImplemented"),
    ],
)
def test_does_not_repeat_what_is_refused(
    proxy: Proxy, make_s3: MakeS3, status: int, code: str, error: type[PublisherError], text: str
) -> None:
    store = through(proxy, make_s3)
    proxy.rule = lambda _: Fate(forward=False, answer=answer(status, code))
    with pytest.raises(error, match=text) as caught:
        store.put("data/ab/cd", b"x")
    assert len(proxy.requests) == 1
    assert "data/ab/cd" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"access_key": "nobody"}, AccessDenied, "CVMFS_S3_ACCESS_KEY"),
        ({"secret_key": "wrong"}, AccessDenied, "CVMFS_S3_SECRET_KEY"),
        ({"bucket": "no-such-bucket"}, StorageError, "There is no bucket no-such-bucket"),
    ],
    ids=str,
)
def test_names_what_is_wrong_in_the_configuration(
    make_s3: MakeS3, s3_config: S3Config, change: dict[str, str], error: type[PublisherError], text: str
) -> None:
    store = make_s3(**change)
    for operation in (
        lambda: store.put("a", b"x"),
        lambda: store.put_if_absent("a", b"x"),
        lambda: store.put_if_match("a", b"x", Version("0")),
        lambda: store.get("a"),
        lambda: store.exists("a"),
        lambda: list(store.list("")),
    ):
        with pytest.raises(error, match=text) as caught:
            operation()
        assert not isinstance(caught.value, ObjectNotFound), "a missing bucket is no missing object"
        assert s3_config.secret_key not in str(caught.value)
        assert "wrong" not in str(caught.value)


def test_large_refused_uploads_say_why(store_s3: S3Store, make_s3: MakeS3) -> None:
    """The service answers before it has read everything, and closes the connection."""
    with pytest.raises(AccessDenied):
        make_s3(secret_key="wrong").put("data/ab/cd", bytes(32 << 20))  # noqa: S106
    assert not store_s3.exists("data/ab/cd")


@pytest.mark.parametrize(
    "body", [b"", b"<html><p>Welcome", b"<html/>", b"<Error><Code>InternalError</Code></Error>"], ids=repr
)
def test_a_deletion_without_a_proper_answer(proxy: Proxy, make_s3: MakeS3, body: bytes) -> None:
    """As of a proxy that answers by itself. Nothing may be taken for deleted."""
    store = through(proxy, make_s3)
    lease = store.put("lease", b"x")
    permit = Permit("lease", lease, store.now() + 60)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    proxy.rule = lambda _: Fate(forward=False, answer=head + body)
    with pytest.raises(StorageError, match="does not say which objects it has deleted"):
        store.delete_many(["data/ab/cd"], permit)
    proxy.rule = lambda _: PASS
    store.put("data/ab/cd", b"x")
    assert store.delete_many(["data/ab/cd", "data/ab/none"], permit)
    assert not store.exists("data/ab/cd")


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("many", [True, False])
def test_an_unanswered_deletion_whose_permit_ends(proxy: Proxy, make_s3: MakeS3, many: bool, lost: bool) -> None:
    """It may still be carried out, also where it is a later request that the store refuses."""
    store = through(proxy, make_s3)
    fates = ([LOSE] if many else [LOSE, PASS]) if lost else []

    def rule(request: Request) -> Fate:
        if request.method == "POST" and not many:
            return Fate(forward=False, answer=answer(501, "NotImplemented"))
        if not fates:
            time.sleep(4)
            return PASS
        return fates.pop(0)

    proxy.rule = rule
    permit = Permit("lease", Version(""), store.now() + 2)
    with pytest.raises(PreconditionFailed, match="has expired") as caught:
        store.delete_many(["data/aa/x", "data/aa/y"], permit)
    assert isinstance(caught.value, UnansweredDeletion) == lost


def test_an_object_that_is_replaced_between_its_parts(store_s3: S3Store) -> None:
    """By one of the same size, maybe within a second: what is read is never of both."""
    store_s3.put("object", b"a" * 3000)
    parts = store_s3.get_in_parts("object", 1000)
    assert next(parts) == b"a" * 1000
    assert next(parts) == b"a" * 1000
    store_s3.put("object", b"b" * 3000)
    with pytest.raises(PreconditionFailed, match="object was replaced while it was being read"):
        next(parts)
    assert b"".join(store_s3.get_in_parts("object", 1000)) == b"b" * 3000


# Breaking off


@pytest.mark.parametrize("fate", [UNAVAILABLE, Fate(forward=False, delay=30, answer=b"")], ids=["backoff", "stall"])
def test_can_be_broken_off(proxy: Proxy, make_s3: MakeS3, fate: Fate) -> None:
    store = through(proxy, make_s3, retry=RetryPolicy(initial=30, maximum=30, total=300))
    proxy.rule = lambda _: fate
    cancel = Cancellation()
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    with stopwatch() as elapsed, pytest.raises(StorageError, match="broken off"):
        store.put("a", b"x", cancel=cancel)
    assert 0.4 < elapsed() < 15
    timer.join()


def test_never_prints_credentials(s3_config: S3Config) -> None:
    config = dataclasses.replace(s3_config, access_key="AKSECRETAK", secret_key="SKSECRETSK")  # noqa: S106
    with S3Store(config) as store:
        text = f"{config} {config!r} {store.describe()} {store!r} {vars(store)}"
        with pytest.raises(AccessDenied) as caught:
            store.get("a")
    text += str(caught.value) + repr(caught.value)
    assert "SECRET" not in text.replace("CVMFS_S3_SECRET_KEY", "")


# Credentials


def settings_file(config: S3Config, path: Path, **changes: str) -> Path:
    """Write an ``s3.conf``."""
    values = {
        "HOST": config.host,
        "PORT": str(config.port),
        "BUCKET": config.bucket,
        "DNS_BUCKETS": "false",
        "ACCESS_KEY": config.access_key,
        "SECRET_KEY": config.secret_key,
        **changes,
    }
    path.write_text("".join(f"CVMFS_S3_{key}={value}\n" for key, value in values.items()))
    return path


def test_takes_credentials_that_were_replaced(s3_config: S3Config, tmp_path: Path) -> None:
    """As when temporary ones end, or keys are rotated, while a long publish runs."""
    conf = settings_file(s3_config, tmp_path / "s3.conf", ACCESS_KEY="expired", SECRET_KEY="expired")  # noqa: S106
    with open_store(f"S3,/unused,{s3_config.prefix}@{conf}") as store:
        with pytest.raises(AccessDenied):
            store.put("a", b"1")
        settings_file(s3_config, conf, SECRET_KEY="half replaced")  # noqa: S106
        with pytest.raises(AccessDenied):
            store.put("a", b"1")
        settings_file(s3_config, conf)
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: store.put(f"data/{number}", b"x"), range(32)))
        assert store.get("data/31") == b"x"
        conf.unlink()
        assert store.get("data/31") == b"x"


def test_sends_and_signs_the_token_of_temporary_keys(proxy: Proxy, make_s3: MakeS3, s3_config: S3Config) -> None:
    seen = []

    def without_token(request: Request) -> Fate:  # the service knows nothing of it
        signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        seen.append((request.headers.pop("x-amz-security-token"), "x-amz-security-token" in signed))
        return PASS

    proxy.rule = without_token
    store = make_s3(host="127.0.0.1", port=proxy.port, session_token="a/token+=")  # noqa: S106
    store.put("a", b"x")
    assert store.get("a") == b"x"
    assert seen == [("a/token+=", True)] * 2
    proxy.rule = lambda _: Fate(forward=False, answer=answer(400, "ExpiredToken"))
    with pytest.raises(AccessDenied, match="CVMFS_S3_SESSION_TOKEN"):
        store.get("a")
    assert "a/token" not in repr(dataclasses.replace(s3_config, session_token="a/token+="))  # noqa: S106


def test_anonymous_requests(proxy: Proxy, make_s3: MakeS3, store_s3: S3Store) -> None:
    store_s3.put("a", b"x")
    store = make_s3(access_key="", secret_key="")
    assert store.get("a") == b"x"
    with pytest.raises(AccessDenied):
        store.put("a", b"y")
    through(proxy, make_s3, access_key="", secret_key="").get("a")
    assert "authorization" not in proxy.requests[0].headers


@pytest.mark.parametrize("theirs", [b"theirs", None])
def test_a_write_that_was_overtaken(proxy: Proxy, make_s3: MakeS3, theirs: bytes | None) -> None:
    """It may have been there for a time: nobody knows, and nobody says otherwise."""
    with make_s3(host="127.0.0.1", port=proxy.port) as store, make_s3() as other:
        version = store.put("key", b"before")
        store.put_if_match("key", b"before", version)  # the form of conditions is known now
        written = threading.Event()

        def overtake(request: Request) -> Fate:
            if request.method != "PUT" or written.is_set():
                return PASS
            written.set()
            return LOSE

        def then(request: Request) -> Fate:
            if request.method == "PUT" and written.is_set():
                proxy.rule = lambda _: PASS
                other.put("key", theirs) if theirs is not None else other.delete("key")
                return PASS
            return overtake(request)

        proxy.rule = then
        version = Version(hashlib.md5(b"before", usedforsecurity=False).hexdigest())
        with pytest.raises(OvertakenWrite, match="whether ours was there for a time is not known"):
            store.put_if_match("key", b"ours", version)
