# SPDX-License-Identifier: GPL-3.0-or-later
"""Web frontends: nginx on two hosts, which are containers with systemd, in front of a repository on real storage."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from .conftest import Run, Site, running_site
from .hosts import free_port, on_host, play_on, start_host
from .test_private_ca import Authority, tls_front

pytestmark = pytest.mark.roles


@dataclasses.dataclass
class Answer:
    """What a web server has answered."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(base: str, path: str, method: str = "GET", context: ssl.SSLContext | None = None, **headers: str) -> Answer:
    """Send a request just as it is written, without an interpretation of the path."""
    parts = urllib.parse.urlsplit(base)
    if context is not None:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(parts.netloc, timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    with contextlib.closing(connection):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, b"x" if method in ("PUT", "POST") else None, named)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


class Gateway:
    """A way to the storage that can fail. It counts connections."""

    def __init__(self, endpoint: str) -> None:
        parts = urllib.parse.urlsplit(endpoint)
        self._service = (parts.hostname, parts.port)
        self.connections = 0
        self.failing = False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Go, as if the power had failed."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self.connections += 1
                if self.failing:
                    client.recv(1 << 16)
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    client.close()
                    continue
                service = socket.create_connection(self._service)
                self._open += [client, service]
                for source, target in ((client, service), (service, client)):
                    threading.Thread(target=self._relay, args=(source, target), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@dataclasses.dataclass
class Frontends:
    """The web frontends of a site."""

    site: Site
    instances: dict[str, int]

    @property
    def urls(self) -> list[str]:
        """Where they answer."""
        return [f"http://127.0.0.1:{port}" for port in self.instances.values()]

    def path(self, key: str = "") -> str:
        """The path of an object."""
        return f"/cvmfs/{self.site.repository}/{key}"

    def configure(self, *options: str, **variables: Any) -> Run:
        """Run the playbook `site` for them alone; `variables` are what differs from the defaults."""
        hosts = {name: {"stratum0_frontend_port": port} for name, port in self.instances.items()}
        endpoint = {"s3": {"endpoint": self.site.endpoint, "bucket": self.site.repository}}
        common = {
            "stratum0_frontend_addresses": ["127.0.0.1"],
            "cvmfs_repositories": {self.site.repository: endpoint},
            **variables,
        }
        return play_on(self.site, "stratum0_frontends", hosts, *options, **common)

    def run(self, *command: str, instance: int = 0) -> str:
        """Run a command on one of them."""
        return on_host(list(self.instances)[instance], *command)

    def configuration(self) -> str:
        """What nginx has been told."""
        return self.run("cat", "/etc/nginx/conf.d/cvmfs-stratum0.conf")


@pytest.fixture(scope="module")
def frontends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Frontends]:
    """A site with a published repository, and two hosts on which the role has run."""
    directory = tmp_path_factory.mktemp("frontends")
    with running_site(directory, "podman") as site, contextlib.ExitStack() as stack:
        content = directory / "release"
        content.mkdir()
        (content / "tool").write_text("#!/bin/sh\n")
        (content / "big").write_bytes(os.urandom(3 << 20))
        site.publish(content, "sw/1.0").expect()
        found = Frontends(site, {start_host(stack, "frontend"): free_port() for _ in range(2)})
        found.configure().expect()
        yield found


@pytest.fixture
def plain(frontends: Frontends) -> Iterator[Frontends]:
    """The frontends, for a test that configures them in another way."""
    yield frontends
    frontends.configure().expect()


def keys(site: Site) -> list[str]:
    """All objects of the repository, by their keys in it."""
    client = boto3.client(
        "s3",
        endpoint_url=site.endpoint,
        aws_access_key_id=site.access_key,
        aws_secret_access_key=site.secret_key,
        region_name="us-east-1",
    )
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=site.repository, Prefix=f"{site.repository}/")
    found = [entry["Key"].partition("/")[2] for page in pages for entry in page["Contents"]]
    assert ".cvmfspublished" in found
    return found


def test_everything_is_served_as_it_is_in_the_bucket(frontends: Frontends) -> None:
    site = frontends.site
    for key in keys(site):
        stored = ask(site.endpoint, f"/{site.repository}/{site.repository}/{key}")
        for url in frontends.urls:
            assert ask(url, frontends.path(key)).body == stored.body, key


def test_a_stranger_can_verify_the_repository_through_it(frontends: Frontends) -> None:
    for url in frontends.urls:
        frontends.site.play("verify", repository=frontends.site.repository, url=url + frontends.path()[:-1]).expect()


def test_instances_answer_alike(frontends: Frontends) -> None:
    for path in (*(frontends.path(key) for key in keys(frontends.site)), frontends.path("data/00/missing"), "/health"):
        answers = [ask(url, path) for url in frontends.urls]
        for answer in answers:
            answer.headers.pop("date")
        assert answers[0] == answers[1], path


def test_what_is_named_by_content_is_cached_for_long(frontends: Frontends) -> None:
    (url, _) = frontends.urls
    for key in keys(frontends.site):
        expected = "max-age=259200" if key.startswith("data/") else "max-age=61"
        for method in ("GET", "HEAD"):
            assert ask(url, frontends.path(key), method).headers["cache-control"] == expected, key


def test_what_is_missing_is_not_cached_for_long(frontends: Frontends) -> None:
    answer = ask(frontends.urls[0], frontends.path("data/00/missing"))
    assert (answer.status, answer.headers["cache-control"], answer.body) == (404, "max-age=10", b"404\n")
    assert not [name for name in answer.headers if "amz" in name or "rgw" in name]


def test_ranges_and_conditional_requests(frontends: Frontends) -> None:
    (url, _) = frontends.urls
    key = max(keys(frontends.site), key=lambda key: len(ask(url, frontends.path(key)).body))
    whole = ask(url, frontends.path(key))
    part = ask(url, frontends.path(key), Range="bytes=10-29")
    assert (part.status, part.body) == (206, whole.body[10:30])
    assert part.headers["content-range"] == f"bytes 10-29/{len(whole.body)}"
    fresh = ask(url, frontends.path(key), If_None_Match=whole.headers["etag"])
    assert (fresh.status, fresh.body, fresh.headers["cache-control"]) == (304, b"", "max-age=259200")
    fresh = ask(url, frontends.path(key), If_Modified_Since=whole.headers["last-modified"])
    assert fresh.status == 304
    assert not [name for name in whole.headers if "amz" in name or "rgw" in name]


@pytest.mark.parametrize("query", ["list-type=2&prefix=", "acl", "uploads", "policy", "versioning"])
def test_requests_of_s3_do_not_get_through(frontends: Frontends, query: str) -> None:
    site, (url, _) = frontends.site, frontends.urls
    listing = ask(site.endpoint, f"/{site.repository}/?list-type=2")
    assert listing.status == 200  # a stranger who knows the storage may ask this
    for path in (
        f"/cvmfs/{site.repository}?{query}",
        f"/cvmfs/{site.repository}/?{query}",
        f"/cvmfs/{site.repository}/..?{query}",
        f"/cvmfs/{site.repository}/%2e%2e/?{query}",
        f"/{site.repository}/?{query}",
        f"/?{query}",
    ):
        answer = ask(url, path)
        assert answer.status in (301, 404), path
        assert b"<" not in answer.body.replace(b"<html", b"") or answer.status == 301, path
    manifest = frontends.path(".cvmfspublished")
    assert ask(url, f"{manifest}?{query}").body == ask(url, manifest).body


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_nothing_can_be_written(frontends: Frontends, method: str) -> None:
    (url, _) = frontends.urls
    manifest = frontends.path(".cvmfspublished")
    before = ask(url, manifest).body
    answer = ask(url, manifest, method)
    assert (answer.status, answer.headers["cache-control"]) == (405, "no-store")
    assert ask(url, manifest).body == before


def test_the_list_of_repositories(frontends: Frontends) -> None:
    answer = ask(frontends.urls[0], "/cvmfs/info/v1/repositories.json")
    assert answer.headers["content-type"] == "application/json"
    name = frontends.site.repository
    assert json.loads(answer.body) == {
        "schema": 1,
        "repositories": [{"name": name, "url": f"/cvmfs/{name}"}],
        "replicas": [],
    }


def test_health(frontends: Frontends) -> None:
    (url, _) = frontends.urls
    deep = ask(url, f"/health/{frontends.site.repository}")
    assert (deep.status, deep.headers["cache-control"]) == (200, "no-store")
    assert b"\nN" + frontends.site.repository.encode() in deep.body
    assert ask(url, "/health").headers["cache-control"] == "no-store"
    assert ask(url, "/health/other.example.org").status == 404


def test_the_second_run_changes_nothing(frontends: Frontends) -> None:
    assert re.findall(r"changed=(\d+)", frontends.configure().expect().output) == ["0", "0"]


def test_check_mode_tells_what_would_change_and_changes_nothing(frontends: Frontends) -> None:
    before = frontends.configuration()
    run = frontends.configure("--check", "--diff", stratum0_frontend_keepalive=7).expect()
    assert re.findall(r"changed=(\d+)", run.output) == ["2", "2"]  # the file, and nginx, which is to read it
    assert "+    keepalive 7;" in run.output
    assert frontends.configuration() == before


def test_settings_of_a_run_that_was_broken_off(plain: Frontends) -> None:
    """It had written them, and nginx had not read them: the next run sees to it, although it writes nothing."""
    plain.configure(stratum0_frontend_keepalive=7).expect()
    path = "/etc/nginx/conf.d/cvmfs-stratum0.conf"
    wanted = [plain.run("cat", path, instance=instance) for instance in range(len(plain.instances))]
    plain.configure().expect()
    time.sleep(1.1)  # times are compared by seconds
    for name, text in zip(plain.instances, wanted, strict=True):
        write = ["podman", "exec", "-i", name, "tee", path]
        subprocess.run(write, input=text, text=True, check=True, stdout=subprocess.DEVNULL)
    workers = ("sh", "-c", "grep -ls 'nginx: [w]orker' /proc/[0-9]*/cmdline || true")
    before = plain.run(*workers)
    run = plain.configure(stratum0_frontend_keepalive=7).expect()
    assert re.findall(r"changed=(\d+)", run.output) == ["1", "1"]
    assert set(plain.run(*workers).split()) - set(before.split())  # new ones
    run = plain.configure(stratum0_frontend_keepalive=7).expect()
    assert re.findall(r"changed=(\d+)", run.output) == ["0", "0"]


def test_web_pages_of_others(plain: Frontends) -> None:
    """Browsers learn from it what the bucket's own rules say."""
    (url, _), site = plain.urls, plain.site
    manifest, ours, theirs = plain.path(".cvmfspublished"), "https://dash.example.org", "https://elsewhere.example.net"
    assert "access-control-allow-origin" not in ask(url, manifest, Origin=ours).headers
    s3 = {"endpoint": site.endpoint, "bucket": site.repository, "cors_origins": [ours, "https://*.example.com"]}
    plain.configure(cvmfs_repositories={site.repository: {"s3": s3}}).expect()
    for origin, allowed in (
        (ours, True),
        ("https://a.example.com", True),
        (theirs, False),
        (f"{ours}.evil.net", False),
    ):
        for path in (manifest, plain.path("data/00/missing")):
            answer = ask(url, path, Origin=origin)
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None), origin
            assert answer.headers["vary"] == "Origin"
            assert "cache-control" in answer.headers
        asked = ask(
            url,
            manifest,
            "OPTIONS",
            Origin=origin,
            Access_Control_Request_Method="GET",
            Access_Control_Request_Headers="if-none-match",
        )
        assert asked.status == (204 if allowed else 405)
        assert asked.headers.get("access-control-allow-methods") == ("GET, HEAD" if allowed else None)
        assert asked.headers.get("access-control-allow-headers") == ("if-none-match" if allowed else None)
    assert ask(url, manifest, "PUT", Origin=ours).status == 405
    assert "access-control-allow-origin" not in ask(url, "/health", Origin=ours).headers
    assert "vary" not in ask(url, "/health").headers
    s3["cors_origins"] = ["*"]
    plain.configure(cvmfs_repositories={site.repository: {"s3": s3}}).expect()
    assert ask(url, manifest, Origin=theirs).headers["access-control-allow-origin"] == "*"


def test_connections_to_the_storage_are_kept(plain: Frontends) -> None:
    with contextlib.closing(Gateway(plain.site.endpoint)) as gateway:
        plain.configure(stratum0_frontend_gateways={plain.site.endpoint: [f"127.0.0.1:{gateway.port}"]}).expect()
        for _ in range(100):
            assert ask(plain.urls[0], plain.path(".cvmfspublished")).status == 200
        assert gateway.connections <= os.cpu_count()  # type: ignore[operator] # one for each of nginx's processes


@pytest.mark.parametrize("fault", ["dies", "answers 503"])
def test_when_a_gateway_fails_the_other_one_is_asked(plain: Frontends, fault: str) -> None:
    with (
        contextlib.closing(Gateway(plain.site.endpoint)) as lost,
        contextlib.closing(Gateway(plain.site.endpoint)) as other,
    ):
        gateways = [f"127.0.0.1:{gateway.port}" for gateway in (lost, other)]
        plain.configure(stratum0_frontend_gateways={plain.site.endpoint: gateways}).expect()
        names = [key for key in keys(plain.site) if key.startswith("data/")] * 20
        readers = 4
        started = threading.Event()
        cut_short: list[str] = []

        def read(key: str) -> int:
            try:
                status = ask(plain.urls[0], plain.path(key)).status
            except http.client.IncompleteRead:  # its beginning was sent already, which no frontend can take back
                cut_short.append(key)
                status = ask(plain.urls[0], plain.path(key)).status
            started.set()
            return status

        with concurrent.futures.ThreadPoolExecutor(readers) as pool:
            statuses = pool.map(read, names)
            started.wait(30)
            if fault == "dies":
                lost.close()
            else:
                lost.failing = True
            assert set(statuses) == {200}
        # Those that were on their way when it died, and no other
        assert len(cut_short) <= (readers if fault == "dies" else 0)
        assert other.connections > 0
        assert ask(plain.urls[0], f"/health/{plain.site.repository}").status == 200


def test_when_all_gateways_are_gone_it_says_so_and_recovers(plain: Frontends) -> None:
    gateway = Gateway(plain.site.endpoint)
    plain.configure(stratum0_frontend_gateways={plain.site.endpoint: [f"127.0.0.1:{gateway.port}"]}).expect()
    gateway.close()
    (url, _) = plain.urls
    answer = ask(url, plain.path(".cvmfspublished"))
    assert (answer.status, answer.headers["cache-control"], answer.body) == (502, "no-store", b"502\n")
    assert ask(url, "/health").status == 200
    assert ask(url, f"/health/{plain.site.repository}").status == 502
    plain.configure().expect()
    assert ask(url, plain.path(".cvmfspublished")).status == 200


def test_a_configuration_that_nginx_refuses_is_taken_back(plain: Frontends) -> None:
    before = plain.configuration()
    missing = {"stratum0_frontend_tls_certificate": "/etc/ssl/missing.pem", "stratum0_frontend_tls_key": "/etc/ssl/m"}
    run = plain.configure(**missing).expect(2)
    assert "/etc/ssl/missing.pem" in run.output
    assert "keeps the one before" in run.output
    assert plain.configuration() == before
    assert plain.run("ls", "/etc/nginx/conf.d").split() == ["cvmfs-stratum0.conf"]
    plain.run("systemctl", "restart", "nginx")
    assert ask(plain.urls[0], plain.path(".cvmfspublished")).status == 200


def test_bad_input_is_refused(frontends: Frontends) -> None:
    before = frontends.configuration()
    endpoint = frontends.site.endpoint
    for variables, message in (
        ({"stratum0_frontend_gateways": {endpoint: ["rgw1"]}}, "not a list of HOST:PORT"),
        ({"stratum0_frontend_gateways": {"http://other": ["rgw1:80"]}}, "no repository has that endpoint"),
        ({"stratum0_frontend_tls_key": "/etc/ssl/key.pem"}, "stratum0_frontend_tls_certificate and"),
        ({"stratum0_frontend_repositories": {"a;b": {"s3": {"endpoint": endpoint, "bucket": "b"}}}}, "a;b is not"),
        ({"stratum0_frontend_repositories": {"a.b": {"s3": {"endpoint": endpoint, "bucket": "b;"}}}}, "a.b is not"),
        ({"stratum0_frontend_tls_port": "many"}, "stratum0_frontend_tls_port"),
    ):
        assert message in frontends.configure(**variables).expect(2).output.replace("\n", " ")
    assert frontends.configuration() == before


def test_tls_on_both_sides(plain: Frontends, tmp_path: pathlib.Path) -> None:
    authority = Authority(tmp_path)
    for instance, name in enumerate(plain.instances):
        subprocess.run(["podman", "cp", authority.server, f"{name}:/etc/ssl/server.pem"], check=True)
        plain.run("chmod", "0400", "/etc/ssl/server.pem", instance=instance)
    port = free_port()
    limit = ("--limit", next(iter(plain.instances)))
    with tls_front(authority.server, plain.site.endpoint) as url:
        endpoint = url.replace("127.0.0.1", "localhost")
        s3 = {"endpoint": endpoint, "bucket": plain.site.repository, "ca_path": str(authority.certificate)}
        variables = {
            "stratum0_frontend_gateways": {endpoint: [urllib.parse.urlsplit(url).netloc]},
            "stratum0_frontend_tls_certificate": "/etc/ssl/server.pem",
            "stratum0_frontend_tls_key": "/etc/ssl/server.pem",
            "stratum0_frontend_tls_port": port,
        }
        plain.configure(*limit, cvmfs_repositories={plain.site.repository: {"s3": s3}}, **variables).expect()
        context = ssl.create_default_context(cafile=authority.certificate)
        path = plain.path(".cvmfspublished")
        secure = ask(f"https://localhost:{port}", path, context=context)
        stored = ask(plain.site.endpoint, f"/{plain.site.repository}/{plain.site.repository}/.cvmfspublished")
        assert secure.body == stored.body
        assert ask(plain.urls[0], path).body == secure.body  # by HTTP as well

        # An authority that is not the gateway's
        del s3["ca_path"]
        plain.configure(*limit, cvmfs_repositories={plain.site.repository: {"s3": s3}}, **variables).expect()
        assert ask(plain.urls[0], path).status == 502


def test_beside_other_sites(plain: Frontends) -> None:
    """With names of its own it leaves other requests to others."""
    port = next(iter(plain.instances.values()))
    other = f"server {{ listen 127.0.0.1:{port} default_server; return 200 other; }}"
    path = plain.path(".cvmfspublished")
    try:
        plain.configure(stratum0_frontend_server_names=["stratum0.example.org"]).expect()
        plain.run("sh", "-c", f"echo '{other}' >/etc/nginx/conf.d/other.conf && systemctl reload nginx")
        deadline = time.monotonic() + 10
        while ask(plain.urls[0], path).body != b"other":
            assert time.monotonic() < deadline
        assert ask(plain.urls[0], path, Host="stratum0.example.org").headers["cache-control"] == "max-age=61"
    finally:
        plain.run("rm", "-f", "/etc/nginx/conf.d/other.conf")


def test_removal(plain: Frontends) -> None:
    run = plain.configure("--check", stratum0_frontend_state="absent").expect()
    assert re.findall(r"changed=(\d+)", run.output) == ["2", "2"]
    assert ask(plain.urls[0], "/health").status == 200
    run = plain.configure(stratum0_frontend_state="absent").expect()
    assert re.findall(r"changed=(\d+)", run.output) == ["2", "2"]
    deadline = time.monotonic() + 10
    while True:
        try:
            ask(plain.urls[0], "/health")
        except ConnectionRefusedError:
            break
        assert time.monotonic() < deadline
    assert plain.run("find", "/etc/nginx", "-name", "*cvmfs*") == ""
    assert re.findall(r"changed=(\d+)", plain.configure(stratum0_frontend_state="absent").expect().output) == ["0", "0"]
