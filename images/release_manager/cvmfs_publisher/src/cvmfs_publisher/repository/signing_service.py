# SPDX-License-Identifier: GPL-3.0-or-later
"""The signing service, as publishers see it: it has the repository key, and they have none.

One request and its answer are a connection's whole life; both are JSON documents, and end where their sender stops
writing. What the service signs, and what not, is in `cvmfs_publisher.operations.sign`.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from typing import TYPE_CHECKING

from ..errors import SignatureError, SigningRefused, SigningServiceUnreachable, UsageError
from .letter import Letter, hash_to_sign
from .signing import Certificate

if TYPE_CHECKING:
    from pathlib import Path

    from .lease import Lease
    from .manifest import Manifest

_PATIENCE = 30.0  # seconds; a service that is started anew is there again by then
_RETRY_EVERY = 0.25  # seconds
_TIMEOUT = 330.0  # seconds; the service has to wait for the storage as everybody has
_RESTART = "See whether it runs, and what its log says"


class SigningService:
    """A signer that has no key, but asks the service behind a Unix socket.

    :param path: the socket
    :param repository: fully qualified name
    :raises SigningServiceUnreachable: when nobody answers there
    :raises SigningRefused: when the service is that of another repository
    """

    def __init__(self, path: Path, repository: str) -> None:
        self._path = path
        self._repository = repository
        self.certificate = Certificate(self._ask({"do": "certificate"})["certificate"].encode())

    def sign_manifest(self, manifest: Manifest, lease: Lease | None) -> bytes:
        """Return the document for ``.cvmfspublished``.

        :param lease: renewed before, as the service signs only for who holds it
        :raises SigningRefused: when the service does not sign it
        :raises SigningServiceUnreachable: when the service does not answer
        :raises LeaseHeld, NotInTransaction: when the lease is lost
        """
        if lease is None:
            raise UsageError("The signing service signs under a lease only", remedy="Take the lease before")
        lease.renew()
        text = manifest.text()
        answer = self._ask({"do": "sign", "session": lease.session, "manifest": text.decode()})
        letter = Letter(text, hash_to_sign(text, manifest.root_hash.algorithm), base64.b64decode(answer["signature"]))
        if not self.certificate.verify(letter.hash_text, letter.signature):
            raise SignatureError(
                f"The signing service of {self._repository} has another key than at first",
                remedy="Its key was replaced meanwhile: publish again",
            )
        return letter.serialise()

    def _ask(self, request: dict[str, str]) -> dict[str, str]:
        data = json.dumps({"repository": self._repository, **request}).encode()
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                answer: dict[str, str] = json.loads(self._send(data))
            except (OSError, ValueError) as error:  # nothing, or half an answer, is of a service that was ended
                if time.monotonic() > deadline:
                    reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
                    raise SigningServiceUnreachable(
                        f"The signing service of {self._repository} cannot be reached at {self._path}: {reason}",
                        remedy=_RESTART,
                    ) from error
            else:
                if "refused" in answer:
                    raise SigningRefused(f"The signing service refuses: {answer['refused']}", remedy=answer["remedy"])
                return answer
            time.sleep(_RETRY_EVERY)

    def _send(self, data: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT)
            connection.connect(str(self._path))
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                return stream.read()
