# SPDX-License-Identifier: GPL-3.0-or-later
"""The signing service: publishers without a key do all that publishers do, and nothing else is signed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.content import ContentHash, HashSuffix, put_object
from cvmfs_publisher.errors import ConfigurationError
from cvmfs_publisher.operations import upstream
from cvmfs_publisher.operations.import_ import ImportOptions, import_repository
from cvmfs_publisher.operations.publish import PublishOptions, ingest
from cvmfs_publisher.repository import Certificate, Manifest, MasterKey, RepositoryKey, Whitelist, signing_service
from cvmfs_publisher.repository.lease import LEASE_KEY
from cvmfs_publisher.repository.manifest import MANIFEST_KEY
from cvmfs_publisher.repository.manifest import verify as verify_manifest
from cvmfs_publisher.repository.whitelist import WHITELIST_KEY
from operations.managers import NAME, ReleaseManager, changes_file, make, merge, mirror
from operations.stores import MeanwhileEnvironment

SIGNER = [sys.executable, "-c", "from cvmfs_publisher.cli.signer import main; main()"]


@dataclass
class Service:
    """A signing service with the key of a repository, and the host that it runs on."""

    host: ReleaseManager
    socket: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def log_file(self) -> Path:
        return self.host.base / "log"

    def start(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*SIGNER, NAME], stdin=subprocess.DEVNULL, stderr=log, env=self.host.process_environment
            )
        deadline = time.monotonic() + 30
        while f" signing {NAME} with certificate" not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def stop(self) -> int | None:
        """End it, and return its exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        code, self.process = self.process.wait(30), None
        return code

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def signed(self) -> list[tuple[int, str]]:
        """Return revisions and root catalogs of what it has signed, as its log says."""
        form = rf"^\S+ signed {NAME} revision (\d+), root catalog (\w+), manifest \w+, for "
        lines = re.findall(form, self.log(), re.MULTILINE)
        return [(int(revision), root_hash) for revision, root_hash in lines]

    def send(self, data: bytes) -> dict[str, str]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.socket))
            with contextlib.suppress(BrokenPipeError):  # it does not read on when it has had enough
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                answer: dict[str, str] = json.loads(stream.read())
                return answer

    def ask(self, **request: Any) -> dict[str, str]:
        return self.send(json.dumps({"repository": NAME, "do": "sign", **request}).encode())


@pytest.fixture
def service(manager: ReleaseManager) -> Iterator[Service]:
    yield from _service(manager)


@pytest.fixture
def local_service(local: ReleaseManager) -> Iterator[Service]:
    yield from _service(local)


def _service(manager: ReleaseManager) -> Iterator[Service]:
    """Give the key to a service, and none to `manager`."""
    with tempfile.TemporaryDirectory() as directory:  # names of sockets are short
        path = Path(directory) / "socket"
        manager.configure(CVMFS_SIGNING_SERVICE=str(path))
        service = Service(manager.another("signer"), path)
        (manager.keys / f"{NAME}.key").unlink()
        (service.host.keys / f"{NAME}.masterkey").unlink()
        service.start()
        try:
            yield service
        finally:
            service.stop()


def test_all_that_publishers_do(manager: ReleaseManager, service: Service, source: Path, tmp_path: Path) -> None:
    manager.configure(CVMFS_GARBAGE_COLLECTION="true")
    seen = []

    def does(command: str, *arguments: str | Path) -> None:
        before = len(service.signed())
        manager.server(command, *arguments).succeeded()
        found = service.signed()[before:]
        assert found, f"{command} did without a signature"
        manifest = manager.manifest()
        assert found[-1] == (manifest.revision, manifest.root_hash.hex)
        seen.append(command)

    changes = changes_file(tmp_path / "changes", {"source": str(source), "base_dir": "sw", "mode": "mirror"})
    manager.server("transaction").succeeded()
    does("publish", "--changes", changes, "-a", "first")
    (source / "README").write_text("read me again\n")
    does("ingest", "--directory", source, "-b", "sw")
    does("tag", "-a", "second")
    does("tag", "-f", "-r", "second")
    does("rollback", "-f", "-t", "first")
    does("gc", "-r", "0", "-f")
    owners = tmp_path / "owners"
    owners.write_text("* 1234\n")
    does("catalog-chown", "-u", owners, "-g", owners)
    meta = tmp_path / "meta"
    meta.write_text('{"administrator": "somebody"}')
    does("update-repoinfo", "-f", meta)
    does("resign", "-p")
    with manager.store() as store:
        store.delete(".cvmfsreflog")
    does("check", "-r")
    manager.configure(CVMFS_VIRTUAL_DIR="true")  # a revision that is tagged is followed by one that shows it
    does("ingest", "--directory", source, "-b", "more")
    assert service.signed()[-1][0] >= 4
    manager.check()
    with manager.store() as store:
        certificate = Certificate.load(service.host.keys / f"{NAME}.crt")
        verify_manifest(store.get(MANIFEST_KEY), certificate)
    assert " for " in service.log()
    assert 'transaction "' in service.log()
    assert " refused " not in service.log()
    assert service.stop() == 0


def test_the_socket_is_for_its_owner(local_service: Service) -> None:
    assert local_service.socket.stat().st_mode & 0o777 == 0o600
    assert os.listdir(local_service.socket.parent) == ["socket"]


def test_a_publish_waits_for_a_service_that_is_started_anew(
    local: ReleaseManager, local_service: Service, source: Path
) -> None:
    local_service.stop()
    publishing = local.start("ingest", "--directory", str(source), "-b", "sw")
    time.sleep(1)
    assert publishing.poll() is None
    local_service.start()
    output = publishing.communicate(timeout=60)
    assert publishing.returncode == 0, output
    local.check()


def test_no_service(
    local: ReleaseManager, local_service: Service, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_service, "_PATIENCE", 0)
    local_service.stop()
    says = [f"The signing service of {NAME} cannot be reached at {local_service.socket}: Connection refused"]
    local.refuses("ingest", "--directory", source, "-b", "sw", says=says)
    local_service.socket.unlink()
    local.refuses("tag", "-a", "new", says=["No such file or directory. See whether it runs"])


def test_a_service_that_ends_amid_a_request(
    local: ReleaseManager, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again, and nothing is made of half an answer."""
    monkeypatch.setattr(signing_service, "_PATIENCE", 0.5)
    path = tmp_path / "socket"
    local.configure(CVMFS_SIGNING_SERVICE=str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = os.fork()
        if child == 0:
            while True:
                connection, _ = listener.accept()
                while connection.recv(1024):
                    pass
                connection.sendall(b'{"certifi')
                connection.close()
        try:
            local.refuses("ingest", "--directory", source, "-b", "sw", says=["cannot be reached", "no answer"])
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_another_repository_s_service(local_service: Service) -> None:
    answer = local_service.send(json.dumps({"repository": "other.example.org", "do": "certificate"}).encode())
    assert answer["refused"] == f'It is that of {NAME}, not of "other.example.org"'


@pytest.mark.usefixtures("local_service")
def test_revisions_are_not_skipped(local: ReleaseManager) -> None:
    """Who could have any number signed could use them up: clients take no revision before the one that they have."""
    local.server("transaction").succeeded()
    outcome = local.server("publish", "-n", "1000")
    assert outcome.code == 1
    assert "signs revision 2 next, and not 1000. Give no number" in outcome.stderr
    local.server("publish", "-n", "2").succeeded()


def test_a_service_whose_key_is_not_listed(local: ReleaseManager, local_service: Service, source: Path) -> None:
    other = RepositoryKey.generate(NAME)
    local_service.stop()
    for suffix, pem in (("key", other.private_pem()), ("crt", other.certificate.pem)):
        file = local_service.host.keys / f"{NAME}.{suffix}"
        file.unlink()
        file.write_bytes(pem)
    local_service.log_file.unlink()
    local_service.start()
    local.refuses("ingest", "--directory", source, "-b", "sw", says=["is not in the whitelist"])
    # A roll-over of the key: the whitelist, where the master key is, and then the manifest
    with local.store() as store:
        certificates = [other.certificate]
        master = MasterKey.load(local.keys / f"{NAME}.masterkey")
        store.put(WHITELIST_KEY, Whitelist.create(NAME, certificates).signed(master))
    outcome = local.server("resign", "-p", "-f")
    assert outcome.code == 1
    assert f"sign it where the repository key is: cvmfs_server resign -p -f {NAME}" in outcome.stderr
    (local.keys / f"{NAME}.crt").unlink()
    for suffix in ("key", "crt"):
        shutil.copy(local_service.host.keys / f"{NAME}.{suffix}", local.keys)
    local.server("resign", "-p", "-f").succeeded()
    assert local_service.signed() == []
    (local.keys / f"{NAME}.key").unlink()
    local.ingest(mirror(source))
    local.check()
    assert [revision for revision, _ in local_service.signed()] == [2]


@pytest.mark.usefixtures("local_service")
def test_import_makes_no_key_that_the_service_has_not(local: ReleaseManager) -> None:
    with pytest.raises(ConfigurationError, match="Leave -t out, and give the service another key"):
        import_repository(local.environment, NAME, ImportOptions(recreate_whitelist=True, recreate_key=True))


@pytest.mark.usefixtures("local_service")
def test_upstreams_tools_need_the_key(local: ReleaseManager) -> None:
    for subcommand in ("transaction", "publish", "gc"):
        with pytest.raises(ConfigurationError, match="know nothing of a signing service"):
            upstream.run(local.environment, [subcommand, NAME])


# What is asked for by who is no publisher, or means no good


@dataclass
class Asker:
    """Who has what a publisher has, just before it commits."""

    manager: ReleaseManager
    service: Service
    session: str
    manifest: Manifest

    def lease(self, **changes: Any) -> None:
        """Change the lease."""
        with self.manager.store() as store:
            document = json.loads(store.get(LEASE_KEY)) | changes
            store.put(LEASE_KEY, json.dumps(document).encode())

    def asks(self, text: bytes | None = None, session: str | None = None, **changes: Any) -> dict[str, str]:
        """Ask for a manifest with these changes, or with this text."""
        text = replace(self.manifest, **changes).text() if text is None else text
        return self.service.ask(manifest=text.decode(), session=self.session if session is None else session)


@pytest.fixture
def asker(manager: ReleaseManager, service: Service) -> Asker:
    return _asker(manager, service)


@pytest.fixture
def local_asker(local: ReleaseManager, local_service: Service) -> Asker:
    return _asker(local, local_service)


def _asker(manager: ReleaseManager, service: Service) -> Asker:
    manager.server("transaction").succeeded()
    session = json.loads((manager.spool / "transaction.json").read_text())["token"]
    current = manager.manifest()
    return Asker(manager, service, session, replace(current, revision=current.revision + 1))


def test_who_does_as_publishers_do(asker: Asker) -> None:
    """Shows that what is refused below is refused for what is wrong with it."""
    answer = asker.asks()
    text = asker.manifest.text()
    certificate = Certificate.load(asker.service.host.keys / f"{NAME}.crt")
    hash_text = ContentHash.of(text, asker.manifest.root_hash.algorithm).hex.encode()
    assert certificate.verify(hash_text, base64.b64decode(answer["signature"]))
    assert f", manifest {hash_text.decode()}, for " in asker.service.log()


ABSENT = ContentHash.parse("00" * 20)
ATTACKS: dict[str, tuple[Callable[[Asker], dict[str, str]], str]] = {
    "another repository's manifest": (
        lambda asker: asker.asks(repository="other.example.org"),
        f'The manifest is that of "other.example.org", not of {NAME}',
    ),
    "asking for another repository": (
        lambda asker: asker.service.ask(repository="other.example.org", manifest="", session=""),
        f'It is that of {NAME}, not of "other.example.org"',
    ),
    "no lease": (lambda asker: _ended(asker, lambda: asker.lease(is_released=True)), "Nobody holds the lease"),
    "no lease ever": (lambda asker: _ended(asker, lambda: _delete(asker, LEASE_KEY)), "Nobody holds the lease"),
    "lapsed lease": (lambda asker: _ended(asker, lambda: asker.manager.expire_lease(5)), "has ended "),
    "another's lease": (lambda asker: asker.asks(session="x" * 43), "holds the lease on"),
    "the hash that everybody can read": (
        lambda asker: asker.asks(session=_lease(asker)["session"]),
        "holds the lease on",
    ),
    "the lease of somebody who forges lines of the log": (
        lambda asker: _ended(asker, lambda: asker.lease(holder=f"x\n signed {NAME}", session="00")),
        f'"x\\n signed {NAME}" holds the lease',
    ),
    "the lease of nobody": (lambda asker: _ended(asker, lambda: asker.lease(session="\ud800")), "holds the lease on"),
    "the lease of a number": (lambda asker: _ended(asker, lambda: asker.lease(session=5)), "is no lease"),
    "the lease of a long name": (
        lambda asker: _ended(asker, lambda: asker.lease(holder="x" * 100000, session="00")),
        "x... holds the lease on",
    ),
    "lease that is none": (lambda asker: _ended(asker, lambda: _put(asker, LEASE_KEY, b"[]")), "is no lease"),
    "earlier revision": (lambda asker: asker.asks(revision=0), "Revision 0 is neither the current one, 1, nor next"),
    "revision far ahead": (lambda asker: asker.asks(revision=4), "Revision 4 is neither the current one"),
    "on top of what a stranger has signed": (
        lambda asker: _strangers(asker, revision=2**62, timestamp=2**40),
        "which is not in the whitelist",
    ),
    "what a stranger has signed": (
        lambda asker: _strangers(asker, 0, revision=2**62, timestamp=2**40),
        "which is not in the whitelist",
    ),
    "current revision with other content": (
        lambda asker: asker.asks(revision=1, root_hash=ABSENT),
        "Revision 1 is published already, with another root catalog",
    ),
    "missing catalog": (
        lambda asker: asker.asks(root_hash=ABSENT),
        "C, which the manifest names, is not in the storage",
    ),
    "missing history": (
        lambda asker: asker.asks(history=ABSENT.with_suffix(HashSuffix.HISTORY)),
        "H, which the manifest names, is not in the storage",
    ),
    "missing description": (
        lambda asker: asker.asks(meta_info=ABSENT.with_suffix(HashSuffix.METAINFO)),
        "M, which the manifest names, is not in the storage",
    ),
    "no certificate": (lambda asker: asker.asks(certificate=None), "The manifest does not name the certificate"),
    "missing certificate": (
        lambda asker: asker.asks(certificate=ABSENT),
        "X, which the manifest names, is not in the storage",
    ),
    "another certificate": (
        lambda asker: asker.asks(certificate=_another_certificate(asker)),
        "The manifest does not name the certificate",
    ),
    "older than the current one": (
        lambda asker: asker.asks(timestamp=asker.manifest.timestamp - 1),
        "is before that of the current revision",
    ),
    "from the future": (lambda asker: asker.asks(timestamp=int(time.time()) + 86400), "or in the future"),
    "a line of nobody's": (lambda asker: asker.asks(asker.manifest.text() + b"Zz\n"), "not as publishers write it"),
    "a signed manifest": (lambda asker: asker.asks(asker.manifest.text() + b"--\n00\nx"), "not as publishers write it"),
    "another letter": (
        lambda asker: asker.asks(b"20300101000000\nE20300101000000\nN" + NAME.encode() + b"\n00:00\n"),
        "The manifest names no root catalog",
    ),
    "no manifest": (lambda asker: asker.asks(b""), "The manifest names no root catalog"),
    "number of many digits": (
        lambda asker: asker.asks(asker.manifest.text().replace(b"\nS2\n", b"\nS" + b"9" * 5000 + b"\n")),
        "The manifest has no usable revision",
    ),
    "garbage": (lambda asker: asker.service.send(b"\xff\x00{"), "The request is not understood"),
    "a long line": (lambda asker: asker.asks(b"C" * 60000), "is not a content hash"),
    "nothing": (lambda asker: asker.service.send(b""), "The request is not understood"),
    "a deep document": (lambda asker: asker.service.send(b"[" * 60000), "The request is not understood"),
    "half a character": (lambda asker: asker.service.ask(manifest="\ud800", session=""), "is not understood"),
    "no text": (lambda asker: asker.service.ask(manifest=1, session=None), "The request is not understood"),
    "something else": (lambda asker: asker.service.ask(do="whitelist"), "The request is not understood"),
    "half a request": (lambda asker: asker.service.ask(session=asker.session), "The request is not understood"),
    "oversized": (lambda asker: asker.service.send(b" " * 65537), "The request has more than 65536 bytes"),
    "expired whitelist": (
        lambda asker: _ended(asker, lambda: _put_whitelist(asker, -1)),
        f"The whitelist of {NAME} expired",
    ),
    "replaced manifest": (
        lambda asker: _ended(asker, lambda: _put(asker, MANIFEST_KEY, asker.manifest.text() + b"--\n00\nx")),
        "does not say which hash was signed",
    ),
}


OF_ANY_STORAGE = ["no lease", "lapsed lease", "another's lease", "missing catalog"]
"""Attacks that are not the same in a bucket and in a directory."""


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - set(OF_ANY_STORAGE)))
def test_attacks(local_asker: Asker, attack: str) -> None:
    _is_refused(local_asker, attack)


@pytest.mark.parametrize("attack", OF_ANY_STORAGE)
def test_attacks_by_storage(asker: Asker, attack: str) -> None:
    _is_refused(asker, attack)


def _is_refused(asker: Asker, attack: str) -> None:
    ask, says = ATTACKS[attack]
    answer = ask(asker)
    assert answer.keys() == {"refused", "remedy"}
    assert says in answer["refused"]
    assert asker.service.signed() == []
    log = asker.service.log()
    assert "Traceback" not in log
    assert len(log.splitlines()) == 2  # when it was started, and the refusal
    assert f" refused {NAME}: " in log.splitlines()[1]
    assert len(log) < 1500


def _ended(asker: Asker, change: Callable[[], None]) -> dict[str, str]:
    change()
    return asker.asks()


def _lease(asker: Asker) -> dict[str, Any]:
    with asker.manager.store() as store:
        document: dict[str, Any] = json.loads(store.get(LEASE_KEY))
        return document


def _another_certificate(asker: Asker) -> ContentHash:
    with asker.manager.store() as store:
        return put_object(store, RepositoryKey.generate(NAME).certificate.pem, HashSuffix.CERTIFICATE)[0]


def _strangers(asker: Asker, later: int = 1, **changes: Any) -> dict[str, str]:
    """Publish as who may write to the storage can, and ask for a manifest that is so much later."""
    key = RepositoryKey.generate(NAME)
    with asker.manager.store() as store:
        certificate = put_object(store, key.certificate.pem, HashSuffix.CERTIFICATE)[0]
    published = replace(asker.manifest, certificate=certificate, **changes)
    _put(asker, MANIFEST_KEY, published.signed(key))
    revision, timestamp = published.revision + later, published.timestamp + later
    return asker.asks(revision=revision, timestamp=timestamp)


def _put(asker: Asker, key: str, data: bytes) -> None:
    with asker.manager.store() as store:
        store.put(key, data)


def _delete(asker: Asker, key: str) -> None:
    with asker.manager.store() as store:
        store.delete(key)


def _put_whitelist(asker: Asker, days: int) -> None:
    master = MasterKey.load(asker.manager.keys / f"{NAME}.masterkey")
    certificate = Certificate.load(asker.manager.keys / f"{NAME}.crt")
    _put(asker, WHITELIST_KEY, Whitelist.create(NAME, [certificate], days=days).signed(master))


def test_who_says_nothing_keeps_nobody_waiting_for_long(local_service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(local_service.socket))
        silent.sendall(b"{")
        started = time.monotonic()
        assert "refused" in local_service.ask()
        assert time.monotonic() - started < 20


def test_who_leaves_without_the_answer(local_service: Service) -> None:
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(local_service.socket))
            connection.sendall(b"{}")
    assert "refused" in local_service.ask()
    assert local_service.process is not None
    assert local_service.process.poll() is None


def test_what_was_signed_and_not_committed_is_signed_again(
    local: ReleaseManager, local_service: Service, tmp_path: Path
) -> None:
    """A publisher may die between the two; the number of its revision is not lost."""

    def die() -> None:
        raise KeyboardInterrupt

    changes = ChangeSet((merge(make(tmp_path / "one", a="1")),))
    with pytest.raises(KeyboardInterrupt):
        ingest(MeanwhileEnvironment(local, MANIFEST_KEY, die), NAME, changes, PublishOptions())
    local.ingest(merge(make(tmp_path / "two", b="2")))
    assert [revision for revision, _ in local_service.signed()] == [2, 2]
    local.check()
