# SPDX-License-Identifier: GPL-3.0-or-later
"""People who come by sudo, and pipelines with tokens, publish where they may, and never are in a container."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import pathlib
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from .conftest import Site, running_site
from .test_private_ca import Authority

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose repository has directories for the user `nobody`, whom every machine has."""
    with running_site(tmp_path_factory.mktemp("shared"), "podman") as site:
        permissions = {"cvmfs": ["nobody"], "sw/theirs": ["nobody"]}
        about = {"s3": {"endpoint": site.endpoint, "bucket": site.repository}, "permissions": permissions}
        site.write_inventory(cvmfs_repositories={site.repository: about})
        assert site.play("site").expect().changed == 1  # release-manager.json
        yield site


def by_sudo(site: Site, *arguments: str, stdin: bytes = b"", rc: int = 0) -> str:
    """Call the command as sudo would for the user `nobody`; all that it prints."""
    done = subprocess.run(
        [site.command, *arguments],
        check=False,
        env={**os.environ, "SUDO_USER": "nobody"},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = done.stdout.decode()
    assert done.returncode == rc, output
    return output


def test_a_team_publishes_its_own_directory(shared: Site, source: pathlib.Path) -> None:
    archive = source.parent / "release.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=".")
    data, name, before = archive.read_bytes(), shared.repository, shared.revision()
    refused = by_sudo(shared, "ingest", f"{name}/sw/other", stdin=data, rc=1)
    assert f"nobody may not publish at {name}/sw/other, but below {name}/cvmfs, {name}/sw/theirs" in refused
    for mounted in (f"{name}//cvmfs/{name}/sw/other", f"{name}///cvmfs//{name}/sw/other", f"{name}/cvmfs/{name}/sw"):
        assert f"without the mount point: {name}/sw" in by_sudo(shared, "ingest", mounted, stdin=data, rc=1)
    assert "may not do this" in by_sudo(shared, "server", name, "tag", "-l", rc=1)
    assert shared.revision() == before
    by_sudo(shared, "ingest", "-a", "theirs", f"{name}/sw/theirs/1.0", stdin=data)
    assert shared.revision() == before + 1
    shared.verify(archive, "sw/theirs/1.0").expect()
    assert f"{name}: revision {before + 1}" in by_sudo(shared, "status")


def test_permissions_that_are_none_are_refused(shared: Site) -> None:
    about = {"s3": {"endpoint": shared.endpoint, "bucket": shared.repository}, "permissions": {"sw/theirs": "nobody"}}
    shared.write_inventory(cvmfs_repositories={shared.repository: about})
    assert "permissions has sw/theirs: nobody, where a directory" in shared.play("site").expect(2).output


def encoded(data: bytes | dict[str, Any]) -> str:
    """As base64url, and JSON within it."""
    data = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """An issuer of tokens, with a web server that says what its keys are."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        self.kid = "first"
        authority = Authority(directory)
        self.certificate = authority.certificate
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                numbers = issuer.key.public_key().public_numbers()
                modulus, exponent = encoded(numbers.n.to_bytes(256, "big")), encoded(numbers.e.to_bytes(3, "big"))
                answers = {
                    "/group/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                    "/group/keys": {"keys": [{"kty": "RSA", "kid": issuer.kid, "n": modulus, "e": exponent}]},
                }
                self.send_response(200 if self.path in answers else 404)
                self.end_headers()
                self.wfile.write(json.dumps(answers.get(self.path)).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.server)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/group"

    @contextlib.contextmanager
    def running(self) -> Iterator[Issuer]:
        """Have it answer."""
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        with contextlib.closing(self.server.socket):
            yield self
            self.server.shutdown()

    def token(self, **changes: Any) -> bytes:
        """A token as a pipeline's of the project atlas/software, with the newline after it."""
        claims = {
            "iss": self.url,
            "aud": "https://cvmfs.example.org",
            "exp": int(time.time()) + 300,
            "sub": "a pipeline",
        }
        claims |= {"project_path": "atlas/software", "ref_protected": "true", **changes}
        signed = f"{encoded({'alg': 'RS256', 'kid': self.kid})}.{encoded(claims)}"
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{encoded(signature)}\n".encode()


@pytest.fixture
def issuer(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    with Issuer(tmp_path).running() as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
        yield made


def test_a_pipeline_publishes_with_a_token(shared: Site, source: pathlib.Path, issuer: Issuer) -> None:
    """The account that it comes by has nothing to say; its keys come from the issuer, and new ones by the next run."""
    names = {"team-atlas": {"project_path": "atlas/software", "ref_protected": True}}
    about = {"issuer": issuer.url, "audience": "https://cvmfs.example.org", "names": names}
    s3 = {"endpoint": shared.endpoint, "bucket": shared.repository}
    repositories = {shared.repository: {"s3": s3, "permissions": {"sw/atlas": ["team-atlas"]}}}
    shared.write_inventory(cvmfs_repositories=repositories, release_manager_oidc=[about])
    assert shared.play("site", "--check").expect().changed == 3  # release-manager.json, oidc.json, oidc-keys.json
    assert shared.play("site").expect().changed == 3
    assert shared.play("site").expect().changed == 0

    archive = source.parent / "release.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=".")
    data, name, before = archive.read_bytes(), shared.repository, shared.revision()
    place = f"{name}/sw/atlas/1.0"
    assert "nobody may not publish" in by_sudo(shared, "ingest", place, stdin=data, rc=1)
    assert "does not begin with a line" in by_sudo(shared, "ingest", "--token", place, stdin=b"\n" + data, rc=1)
    for changes, says in (
        ({"exp": 1700000000}, "It expired at 2023-11-14T22:13:20+00:00"),
        ({"aud": "https://other.example.org"}, 'and has to be "https://cvmfs.example.org"'),
        ({"project_path": "cms/software"}, 'It says: project_path "cms/software", ref_protected "true"'),
    ):
        assert says in by_sudo(shared, "ingest", "--token", place, stdin=issuer.token(**changes) + data, rc=1)
    refused = by_sudo(shared, "ingest", "--token", f"{name}/sw/cms", stdin=issuer.token() + data, rc=1)
    assert f'"a pipeline" (team-atlas) may not publish at {name}/sw/cms, but below {name}/sw/atlas' in refused
    assert shared.revision() == before
    by_sudo(shared, "ingest", "--token", place, stdin=issuer.token() + data)
    assert shared.revision() == before + 1
    shared.verify(archive, "sw/atlas/1.0").expect()

    issuer.key, issuer.kid = rsa.generate_private_key(65537, 2048), "second"
    refused = by_sudo(shared, "ingest", "--token", place, stdin=issuer.token() + data, rc=1)
    assert 'Its key is "second"' in refused
    assert "new keys, have them fetched: run role cvmfs.publishing.release_manager, or" in refused
    subprocess.run([shared.command, "oidc-keys"], check=True)
    by_sudo(shared, "ingest", "--token", "--mirror", f"{name}/sw/atlas/2.0", stdin=issuer.token() + data)
    assert shared.revision() == before + 2
    issuer.kid = "third"
    assert shared.play("site").expect().changed == 1

    shared.write_inventory(cvmfs_repositories=repositories)
    assert shared.play("site").expect().changed == 1
    refused = by_sudo(shared, "ingest", "--token", place, stdin=issuer.token() + data, rc=1)
    assert "This host trusts no issuer of tokens" in refused


def test_a_stolen_key_is_replaced_though_an_issuer_is_out_of_reach(
    shared: Site, source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = {"endpoint": shared.endpoint, "bucket": shared.repository}
    repositories = {shared.repository: {"s3": s3, "permissions": {"sw/atlas": ["team-atlas"]}}}
    with Issuer(tmp_path).running() as issuer:
        monkeypatch.setenv("SSL_CERT_FILE", str(issuer.certificate))
        names = {"team-atlas": {"project_path": "atlas/software"}}
        about = {"issuer": issuer.url, "audience": "https://cvmfs.example.org", "names": names}
        shared.write_inventory(cvmfs_repositories=repositories, release_manager_oidc=[about])
        shared.play("site").expect()
    (old,) = shared.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
    run = shared.play("rotate_keys", repository=shared.repository, replaces=old, stolen=True, trust_content=True)
    assert f"keeps the keys of {issuer.url} that it has had (first)" in " ".join(run.expect().output.split())
    (new,) = shared.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
    assert new != old
    archive = tmp_path / "release.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=".")
    place = f"{shared.repository}/sw/atlas/2.0"
    by_sudo(shared, "ingest", "--token", place, stdin=issuer.token() + archive.read_bytes())
    shared.verify(archive, "sw/atlas/2.0").expect()
    shared.write_inventory(cvmfs_repositories=repositories)
    shared.play("site").expect()


@pytest.mark.parametrize(
    "changes", [{"issuer": "http://gitlab.example.org"}, {"names": {"everybody": {}}}], ids=json.dumps
)
def test_issuers_that_are_none_are_refused(shared: Site, changes: dict[str, Any]) -> None:
    about = {"issuer": "https://gitlab.example.org", "audience": "x", "names": {"a": {"sub": "x"}}, **changes}
    shared.write_inventory(release_manager_oidc=[about])
    output = shared.play("site", "--check").expect(2).output
    assert (
        f"{about['issuer']} in release_manager_oidc has to be there once, with URLs that begin with https://" in output
    )


def test_an_issuer_that_is_not_there_is_named(shared: Site) -> None:
    about = {"issuer": "https://127.0.0.1:1", "audience": "x", "names": {"a": {"sub": "x"}}}
    shared.write_inventory(release_manager_oidc=[about])
    output = shared.play("site").expect(2).output
    assert (
        "https://127.0.0.1:1/.well-known/openid-configuration does not say where the keys of https://127.0.0.1:1"
        in output
    )
    about["jwks_url"] = "https://127.0.0.1:1/keys"
    shared.write_inventory(release_manager_oidc=[about])
    assert "https://127.0.0.1:1/keys does not have the keys of" in shared.play("site").expect(2).output
