# SPDX-License-Identifier: GPL-3.0-or-later
"""Storage whose certificate a private authority has signed, and keys that ansible-vault has encrypted."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import pathlib
import select
import socket
import ssl
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import ENGINES, Site, running_site

pytestmark = pytest.mark.roles

_BLOCK = 1 << 16


class Authority:
    """A certificate authority of its own, in `ca.pem`, and a certificate for this machine, in `server.pem`."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.certificate = directory / "ca.pem"
        self.server = directory / "server.pem"
        key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority of tests")])
        now = datetime.datetime.now(datetime.UTC)

        def builder(subject: str) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
                .issuer_name(name)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=1))
            )

        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = x509.KeyUsage(*(position in (5, 6) for position in range(9)))  # signs certificates and lists of them
        ca = (
            builder("An authority of tests")
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(identifier, critical=False)
            .sign(key, hashes.SHA256())
        )
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        own = (
            builder("storage")
            .public_key(server_key.public_key())
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.certificate.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        private = server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.server.write_bytes(private + own.public_bytes(serialization.Encoding.PEM))


@contextlib.contextmanager
def tls_front(certificate: pathlib.Path, endpoint: str) -> Iterator[str]:
    """Have an https endpoint in front of an http one, and yield its URL."""
    parts = urllib.parse.urlsplit(endpoint)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def relay(client: ssl.SSLSocket, service: socket.socket) -> None:
        while True:
            ready = [client] if client.pending() else select.select([client, service], [], [])[0]
            for source, target in ((client, service), (service, client)):
                if source in ready:
                    data = source.recv(_BLOCK)
                    if not data:
                        return
                    target.sendall(data)

    def serve(accepted: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(accepted, server_side=True) as client,
            socket.create_connection((parts.hostname, parts.port)) as service,
        ):
            relay(client, service)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def endpoint(authority: Authority) -> Iterator[str]:
    """The storage, by https."""
    with tls_front(authority.server, os.environ.get("CVMFS_TEST_S3_ENDPOINT", "http://127.0.0.1:9")) as url:
        yield url


@pytest.fixture(scope="module", params=ENGINES)
def private(
    request: pytest.FixtureRequest, authority: Authority, endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site with such storage."""
    s3 = {"ca_path": str(authority.certificate)}
    with running_site(tmp_path_factory.mktemp("private"), request.param, endpoint=endpoint, s3=s3) as site:
        yield site


def test_everything_works_over_https(private: Site, source: pathlib.Path) -> None:
    assert private.play("site").expect().changed == 0
    private.publish(source, "sw/1.0", tag="first").expect()
    private.verify(source, "sw/1.0").expect()
    info = private.manager("cvmfs_repository_info")
    assert info["url"].startswith("https://127.0.0.1:")
    private.play("resign", min_days=40, days=60).expect()
    private.play("check").expect()


def test_without_the_authority_it_says_so(private: Site, endpoint: str, source: pathlib.Path) -> None:
    confs = [private.config / private.repository / f"{kind}.conf" for kind in ("server", "client")]
    texts = {conf: conf.read_text() for conf in confs}
    try:
        repositories = {private.repository: {"s3": {"endpoint": endpoint, "bucket": private.repository}}}
        private.write_inventory(cvmfs_repositories=repositories)
        run = private.play("site").expect(2)
        assert "CERTIFICATE_VERIFY_FAILED" in run.output or "certificate verify failed" in run.output
        for conf, text in texts.items():
            conf.write_text("".join(line for line in text.splitlines(True) if not line.startswith("X509_CERT_BUNDLE=")))
        run = private.publish(source, "sw/untrusted").expect(2)
        assert "its certificate is not trusted" in run.output
    finally:
        for conf, text in texts.items():
            conf.write_text(text)
        private.write_inventory()


def test_keys_may_be_vaulted(private: Site, source: pathlib.Path) -> None:
    """Encrypted on the controller; nothing but the look-ups has to know."""
    password = private.directory / "password"
    password.write_text("secret of the vault\n")
    names = [f"{private.repository}.{suffix}" for suffix in ("masterkey", "key", "s3.conf")]
    files = [private.keys / name for name in names]
    for file in files:
        file.chmod(0o600)
    vault = [pathlib.Path(sys.executable).with_name("ansible-vault"), "encrypt", "--vault-password-file", password]
    subprocess.run([*vault, *files], check=True, capture_output=True)
    encrypted = {file: file.read_bytes() for file in files}
    options = ("--vault-password-file", str(password))
    assert private.play("site", *options).expect().changed == 0
    private.module("cvmfs_secret", repository=private.repository, engine=private.engine, state="absent")
    assert private.play("site", *options).expect().changed > 0
    private.play("resign", *options, min_days=100, days=120).expect()
    private.publish(source, "sw/vaulted", *options).expect()
    assert {file: file.read_bytes() for file in files} == encrypted
    assert "vault" in private.play("site").expect(2).output.lower()
    run = private.play("site", *options, s3_storage_connections=7).expect(2)
    assert "is encrypted, and has other settings than the inventory says" in run.output
    assert {file: file.read_bytes() for file in files} == encrypted
