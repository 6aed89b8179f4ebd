# SPDX-License-Identifier: GPL-3.0-or-later
"""The keys of issuers are fetched anew, by https from where they are; and what cannot be had stays as it was."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import pathlib
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command, _issuers
from ansible_collections.cvmfs.publishing.plugins.modules import cvmfs_oidc_keys
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

OLD, NEW = ({"keys": [{"kty": "RSA", "kid": name}]} for name in ("old", "new"))
DAMAGED = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"<html>", id="page"),
    pytest.param(b"[]", id="list"),
    pytest.param(b'{"keys": []}', id="no keys"),
    pytest.param(b'{"keys": {}}', id="no list"),
    pytest.param(b'{"keys": [7]}', id="no key"),
    pytest.param(b'{"keys": [{}], "x": "' + b"x" * (1 << 20), id="endless"),
    pytest.param(b"[" * 99999, id="deep"),
]


class Server:
    """A web server with what its `answers` say, by path: bytes, or where to look instead."""

    def __init__(self, directory: pathlib.Path, *, is_secure: bool = True) -> None:
        self.answers: dict[str, bytes | str] = {}
        answers = self.answers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = answers.get(self.path)
                self.send_response(404 if found is None else 302 if isinstance(found, str) else 200)
                if isinstance(found, str):
                    self.send_header("Location", found)
                self.end_headers()
                self.wfile.write(found if isinstance(found, bytes) else b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if is_secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(_certificate(directory), directory / "key.pem")
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if is_secure else ''}://127.0.0.1:{self.server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        with contextlib.closing(self.server.socket):
            yield self
            self.server.shutdown()


def _certificate(directory: pathlib.Path) -> pathlib.Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    forms = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (directory / "key.pem").write_bytes(key.private_bytes(*forms))
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return directory / "certificate.pem"


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    with made.running():
        yield made


@pytest.fixture
def config(tmp_path: pathlib.Path, server: Server) -> pathlib.Path:
    """A host that trusts one issuer, which says itself where its keys are, and is there."""
    directory = tmp_path / "config"
    directory.mkdir()
    _trust(directory, {"issuer": f"{server.url}/group"})
    where = {"issuer": f"{server.url}/group", "jwks_uri": f"{server.url}/keys"}
    server.answers["/group/.well-known/openid-configuration"] = json.dumps(where).encode()
    server.answers["/keys"] = json.dumps(NEW).encode()
    return directory


def _trust(config: pathlib.Path, *issuers: dict[str, Any]) -> None:
    (config / "oidc.json").write_text(json.dumps(issuers))
    keys = {issuer["issuer"]: OLD for issuer in issuers if "jwks" not in issuer}
    (config / "oidc-keys.json").write_text(json.dumps(keys, indent=4, sort_keys=True) + "\n")


def fetch(config: pathlib.Path) -> list[str]:
    return [str(error) for error in _issuers.fetch_keys(str(config))]


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What modules warn of. Once the controller's part of Ansible is loaded, their results do not have it."""
    found: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _self, text: found.append(text))
    return found


@pytest.fixture
def have(config: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the module for these issuers."""

    def run(*issuers: str, **parameters: Any) -> dict[str, Any]:
        wanted = [{"issuer": issuer} for issuer in issuers]
        arguments = {"config_dir": str(config), "issuers": wanted, "_ansible_diff": True, **parameters}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            cvmfs_oidc_keys.main()
        return json.loads(capfd.readouterr().out)

    return run


def keys(config: pathlib.Path) -> dict[str, Any]:
    return {name: entry["keys"] for name, entry in _issuers.trusted(str(config)).items()}


def test_new_keys_take_the_place_of_old_ones(config: pathlib.Path, server: Server) -> None:
    path = config / "oidc-keys.json"
    path.chmod(0o600)
    assert fetch(config) == []
    assert keys(config) == {f"{server.url}/group": NEW["keys"]}
    assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(file.name for file in config.iterdir()) == ["oidc-keys.json", "oidc.json"]
    before = path.stat()
    assert fetch(config) == []  # the same again
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_jwks_url_says_where_they_are(config: pathlib.Path, server: Server) -> None:
    server.answers.clear()
    server.answers["/there"] = json.dumps(NEW).encode()
    _trust(config, {"issuer": "https://127.0.0.1:1", "jwks_url": f"{server.url}/there"})
    assert fetch(config) == []
    assert keys(config) == {"https://127.0.0.1:1": NEW["keys"]}


def test_keys_of_the_inventory_are_not_fetched(config: pathlib.Path) -> None:
    _trust(config, {"issuer": "https://127.0.0.1:1", "jwks": OLD})
    assert fetch(config) == []
    assert keys(config) == {"https://127.0.0.1:1": OLD["keys"]}
    assert (config / "oidc-keys.json").read_text() == "{}\n"


def test_one_that_is_not_there_does_not_hinder_others(config: pathlib.Path, server: Server) -> None:
    issuers = [{"issuer": "https://127.0.0.1:1"}, {"issuer": f"{server.url}/group"}, {"issuer": f"{server.url}/x"}]
    _trust(config, *issuers)
    first, second = fetch(config)
    assert "Cannot fetch the keys of https://127.0.0.1:1: https://127.0.0.1:1/.well-known/openid-configuration" in first
    assert f"{server.url}/x/.well-known/openid-configuration cannot be read" in second
    wanted = [OLD["keys"], NEW["keys"], OLD["keys"]]
    assert list(keys(config).values()) == wanted


@pytest.mark.parametrize("answer", DAMAGED)
def test_what_is_no_set_of_keys_is_not_taken(config: pathlib.Path, server: Server, answer: bytes) -> None:
    before = (config / "oidc-keys.json").read_bytes()
    server.answers["/keys"] = answer
    (error,) = fetch(config)
    assert error.startswith(f"Cannot fetch the keys of {server.url}/group: {server.url}/keys ")
    assert (config / "oidc-keys.json").read_bytes() == before


def test_nobody_speaks_for_another_issuer(config: pathlib.Path, server: Server) -> None:
    where = {"issuer": "https://other.example.org", "jwks_uri": f"{server.url}/keys"}
    server.answers["/group/.well-known/openid-configuration"] = json.dumps(where).encode()
    (error,) = fetch(config)
    assert 'What is there is the configuration of "https://other.example.org"' in error
    assert list(keys(config).values()) == [OLD["keys"]]


def test_an_authority_that_is_not_known_is_not_believed(
    config: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(_certificate(tmp_path)))
    (error,) = fetch(config)
    assert "CERTIFICATE_VERIFY_FAILED" in error
    assert list(keys(config).values()) == [OLD["keys"]]


def test_nothing_is_asked_for_but_by_https(config: pathlib.Path, server: Server, tmp_path: pathlib.Path) -> None:
    with Server(tmp_path, is_secure=False).running() as plain:
        plain.answers["/keys"] = json.dumps(NEW).encode()
        server.answers["/keys"] = f"{plain.url}/keys"
        (error,) = fetch(config)
        assert f"{plain.url}/keys does not begin with https://" in error
        where = {"issuer": f"{server.url}/group", "jwks_uri": f"{plain.url}/keys"}
        server.answers["/group/.well-known/openid-configuration"] = json.dumps(where).encode()
        (error,) = fetch(config)
        assert f"{plain.url}/keys does not begin with https://" in error
        assert list(keys(config).values()) == [OLD["keys"]]
        server.answers["/elsewhere"] = json.dumps(NEW).encode()
        where["jwks_uri"] = f"{server.url}/moved"
        server.answers["/group/.well-known/openid-configuration"] = json.dumps(where).encode()
        server.answers["/moved"] = f"{server.url}/elsewhere"
        assert fetch(config) == []
        assert list(keys(config).values()) == [NEW["keys"]]


def test_the_command_says_what_has_failed(
    config: pathlib.Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _host_command.main(["oidc-keys"], config_dir=str(config)) == 0
    assert list(keys(config).values()) == [NEW["keys"]]
    server.answers.clear()
    assert _host_command.main(["oidc-keys"], config_dir=str(config)) == 1
    said = capsys.readouterr().err
    assert f"Cannot fetch the keys of {server.url}/group: " in said
    assert "Until then, the keys that the host has stay." in said


def test_the_module_fetches_what_is_to_be_had(
    config: pathlib.Path, server: Server, have: Callable[..., dict[str, Any]], warnings: list[str]
) -> None:
    path, issuer = config / "oidc-keys.json", f"{server.url}/group"
    before = path.read_bytes()
    predicted = have(issuer, _ansible_check_mode=True)
    assert path.read_bytes() == before
    done = have(issuer)
    assert predicted["changed"]
    assert done["changed"]
    assert predicted["diff"] == done["diff"] == {"before": {issuer: OLD}, "after": {issuer: NEW}}
    assert json.loads(path.read_text()) == {issuer: NEW}
    assert not have(issuer)["changed"]
    server.answers.clear()
    assert warnings == []
    have(issuer)
    (warning,) = warnings
    assert f"Cannot fetch the keys of {issuer}: " in warning
    assert f" keeps the keys of {issuer} that it has had (new)" in warning
    assert json.loads(path.read_text()) == {issuer: NEW}
    assert have()["changed"]  # it is trusted no longer
    assert path.read_text() == "{}\n"


def test_the_module_fails_where_there_are_no_keys_and_changes_nothing(
    config: pathlib.Path, server: Server, have: Callable[..., dict[str, Any]]
) -> None:
    path, issuer, other = config / "oidc-keys.json", f"{server.url}/group", "https://127.0.0.1:1"
    before = path.read_bytes()
    for parameters in ({}, {"_ansible_check_mode": True}):
        result = have(issuer, other, **parameters)
        assert result["failed"]
        assert f"Cannot fetch the keys of {other}: " in result["msg"]
        assert issuer not in result["msg"]
        assert path.read_bytes() == before
    server.answers.clear()
    for damaged in (b"", b"[]", b'{"x": 1}', json.dumps({issuer: {"keys": []}}).encode()):
        path.write_bytes(damaged)
        assert f"Cannot fetch the keys of {issuer}: " in have(issuer)["msg"]
        assert path.read_bytes() == damaged
    path.unlink()
    assert have()["changed"]
    assert path.read_text() == "{}\n"
