# SPDX-License-Identifier: GPL-3.0-or-later
"""The signing service: it has a repository's key, and signs the manifests of publishers that have none.

It signs what a publisher may commit next, and nothing else: a manifest of its repository, of the current revision or
the one after, whose objects are in the storage, for who proves to hold the lease. So the key cannot be carried off, and
every signature leaves a line on standard error. What the revision has in it is the publisher's business.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from ..content import fetch_object
from ..errors import CorruptObject, PublisherError, SigningRefused
from ..repository import Manifest, Repository, RepositoryKey
from ..repository.lease import LeaseInfo, peek
from ..repository.letter import hash_to_sign
from ..repository.repository import require_may_sign

if TYPE_CHECKING:
    from ..repository import ServerConfig
    from .environment import Environment

_MOST_BYTES = 64 << 10  # of a request; one has about a kilobyte
_TIME_TO_ASK = 5.0  # seconds; requests are answered one after the other, so nobody may keep the others waiting
_MOST_REVISIONS = 2  # at once: with instant snapshots, one that gets a tag is followed by one that shows it
_CLOCK_MARGIN = 3600  # seconds that a publisher's clock may be ahead
_BACKLOG = 16
_MOST_QUOTED = 100  # characters of what somebody else wrote
_MOST_TOLD = 1000  # characters of a line of the log
_UPDATE = "Run the same version of the image everywhere"


class Signatory:
    """What answers requests.

    :param key: the repository's
    """

    def __init__(self, environment: Environment, settings: ServerConfig, key: RepositoryKey) -> None:
        self._environment = environment
        self._settings = settings
        self._key = key
        self._name = settings.repository

    def answer(self, data: bytes) -> bytes:
        """Return the answer to one request, whatever it is, and tell standard error of it."""
        try:
            return json.dumps(self._answer(_parse(data))).encode()
        except PublisherError as error:
            _tell(f"refused {self._name}: {error}")
            return json.dumps({"refused": error.message, "remedy": error.remedy}).encode()
        except Exception:  # whatever one request does, the next is another's
            traceback.print_exc()
            return json.dumps({"refused": "It failed", "remedy": "See its log"}).encode()

    def _answer(self, request: dict[str, str]) -> dict[str, str]:
        if request.get("repository") != self._name:
            raise SigningRefused(
                f"It is that of {self._name}, not of {_quoted(request.get('repository'))}",
                remedy="Correct CVMFS_SIGNING_SERVICE",
            )
        if request.get("do") == "certificate":
            return {"certificate": self._key.certificate.pem.decode()}
        if request.get("do") != "sign" or not {"manifest", "session"} <= request.keys():
            raise SigningRefused("The request is not understood", remedy=_UPDATE)
        return {"signature": base64.b64encode(self._sign(request["manifest"].encode(), request["session"])).decode()}

    def _sign(self, text: bytes, session: str) -> bytes:
        manifest = self._parse_manifest(text)
        with self._environment.open(self._name, self._settings, unlisted=True) as repository:
            require_may_sign(repository.whitelist, self._key)
            lease = self._require_lease(repository, session)
            self._require_current(repository)
            _require_next(repository, manifest)
            self._require_objects(repository, manifest)
        hash_text = hash_to_sign(text, manifest.root_hash.algorithm)
        _tell(
            f"signed {self._name} revision {manifest.revision}, root catalog {manifest.root_hash.hex}, "
            f"manifest {hash_text.decode()}, for {_quoted(lease.holder)}, transaction {_quoted(lease.transaction)}"
        )
        return self._key.sign(hash_text)

    def _parse_manifest(self, text: bytes) -> Manifest:
        try:
            manifest = Manifest.parse(text)
        except CorruptObject as error:
            raise SigningRefused(error.message, remedy=_UPDATE) from None
        if manifest.text() != text:  # so that nothing is signed but what was looked at
            raise SigningRefused("The manifest is not as publishers write it", remedy=_UPDATE)
        if manifest.repository != self._name:
            raise SigningRefused(
                f"The manifest is that of {_quoted(manifest.repository)}, not of {self._name}",
                remedy="Ask that repository's service",
            )
        return manifest

    def _require_lease(self, repository: Repository, session: str) -> LeaseInfo:
        """Refuse who does not hold the lease. The token proves it; only its hash is in the storage, for all to see."""
        lease = peek(repository.store)
        now = repository.store.now()  # by now the store has answered, and so its clock is known
        again = f"Open a transaction: cvmfs_server transaction {self._name}"
        if lease is None or lease.is_released:
            raise SigningRefused(f"Nobody holds the lease on {self._name}", remedy=again)
        if not lease.is_of(session):
            raise SigningRefused(f"{_quoted(lease.holder)} holds the lease on {self._name}", remedy=again)
        if now > lease.expires:
            raise SigningRefused(f"The lease on {self._name} has ended {now - lease.expires:.0f} s ago", remedy=again)
        return lease

    def _require_current(self, repository: Repository) -> None:
        """Refuse to go on from a manifest that clients refuse.

        Who may write to the storage can put one there that has any revision and time, signed with a key of his own.
        """
        if not repository.whitelist.lists(repository.certificate):
            raise SigningRefused(
                f"The manifest of {self._name} is signed with certificate {repository.certificate.fingerprint()}, "
                "which is not in the whitelist",
                remedy="If you know it to be what it should, sign it where the repository key is: "
                f"cvmfs_server resign -p -f {self._name}",
            )

    def _require_objects(self, repository: Repository, manifest: Manifest) -> None:
        """Refuse a manifest that clients could not follow, or that names another certificate."""
        for content_hash in (manifest.root_hash, manifest.history, manifest.meta_info, manifest.certificate):
            if content_hash is not None and not repository.store.exists(content_hash.key()):
                raise SigningRefused(
                    f"{content_hash.key()}, which the manifest names, is not in the storage", remedy="Publish again"
                )
        if (
            manifest.certificate is None
            or fetch_object(repository.store, manifest.certificate) != self._key.certificate.pem
        ):
            raise SigningRefused(
                f"The manifest does not name the certificate {self._key.certificate.fingerprint()}",
                remedy="The key was replaced: publish again",
            )


def _require_next(repository: Repository, manifest: Manifest) -> None:
    """Refuse what cannot be committed on top of the current revision."""
    current = repository.manifest
    if not current.revision <= manifest.revision <= current.revision + _MOST_REVISIONS:
        raise SigningRefused(
            f"Revision {manifest.revision} is neither the current one, {current.revision}, nor next to it",
            remedy="Begin anew with the newest revision",
        )
    if manifest.revision == current.revision and manifest.root_hash != current.root_hash:
        raise SigningRefused(
            f"Revision {manifest.revision} is published already, with another root catalog",
            remedy="Begin anew with the newest revision",
        )
    # Clients refuse what is older than what they have, so one from the future would be the last that they take
    latest = max(repository.store.now() + _CLOCK_MARGIN, current.timestamp + 1)
    if not current.timestamp <= manifest.timestamp <= latest:
        raise SigningRefused(
            f"The manifest's time, {manifest.timestamp}, is before that of the current revision, or in the future",
            remedy="Set the clock of the host",
        )


def serve(environment: Environment, name: str) -> None:
    """Answer requests on the socket that ``CVMFS_SIGNING_SERVICE`` names, until the process is interrupted.

    :raises ConfigurationError: when the key or the configuration is missing
    :raises PublisherError: when the socket cannot be made
    """
    settings = environment.settings(name)
    key = environment.repository_key(name)
    signatory = Signatory(environment, settings, key)
    path = Path(settings.require("CVMFS_SIGNING_SERVICE"))
    with _listen(path) as listener:
        _tell(f"signing {name} with certificate {key.certificate.fingerprint()} at {path}")
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # who asked is gone
                connection.sendall(signatory.answer(_receive(connection)))


def _listen(path: Path) -> socket.socket:
    """Return a socket for its owner alone, in place of that of a service that has ended."""
    listener = socket.socket(socket.AF_UNIX)
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(temporary))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        temporary.rename(path)
    except OSError as error:
        listener.close()
        raise PublisherError(
            f"Cannot make the socket {path}: {error.strerror or error}",
            remedy="Provide a directory there, shared with the publishers, in which the user may write",
        ) from error
    return listener


def _receive(connection: socket.socket) -> bytes:
    """Return what was sent until the sender stopped, had too much to say, or took too long."""
    received = bytearray()
    deadline = time.monotonic() + _TIME_TO_ASK
    while len(received) <= _MOST_BYTES and (left := deadline - time.monotonic()) > 0:
        connection.settimeout(left)
        part = connection.recv(_MOST_BYTES)
        if not part:
            break
        received += part
    connection.settimeout(_TIME_TO_ASK)
    return bytes(received)


def _parse(data: bytes) -> dict[str, str]:
    if len(data) > _MOST_BYTES:
        raise SigningRefused(f"The request has more than {_MOST_BYTES} bytes", remedy=_UPDATE)
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict) or not all(isinstance(value, str) for value in request.values()):
        raise SigningRefused("The request is not understood", remedy=_UPDATE)
    try:
        "".join(request.values()).encode()
    except UnicodeEncodeError:
        raise SigningRefused("The request is not understood", remedy=_UPDATE) from None
    return request


def _quoted(text: object) -> str:
    """Return what somebody else wrote so that it stays on its line, and leaves room for the rest of it."""
    quoted = json.dumps(text)
    return quoted if len(quoted) <= _MOST_QUOTED else quoted[:_MOST_QUOTED] + "..."


def _tell(text: str) -> None:
    line = "".join(character if character.isprintable() else "?" for character in text[:_MOST_TOLD])
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), line, file=sys.stderr, flush=True)
