# SPDX-License-Identifier: GPL-3.0-or-later
"""The whitelist, ``.cvmfswhitelist``: which certificates may sign a repository's manifests, and until when.

The format is that of CernVM-FS's ``whitelist.cc`` and of ``create_whitelist`` in ``cvmfs_server``.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..content import HashAlgorithm
from ..errors import CorruptObject, SignatureError, WhitelistExpired
from .letter import Letter, hash_to_sign, lines
from .signing import verify_master

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import rsa

    from .signing import Certificate, MasterKey

WHITELIST_KEY = ".cvmfswhitelist"
DEFAULT_DAYS = 30
_TIME = "%Y%m%d%H%M%S"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whitelist:
    """A whitelist's content.

    :param repository: fully qualified name
    :param created: when it was signed, UTC
    :param expires: from this hour on clients refuse the repository, UTC
    :param fingerprints: of the certificates, as printed; what follows a blank or ``#`` is a comment
    :param options: lines between the name and the fingerprints, such as ``Wcachain``
    """

    repository: str
    created: datetime.datetime
    expires: datetime.datetime
    fingerprints: tuple[str, ...]
    options: tuple[str, ...] = ()

    @classmethod
    def create(
        cls,
        repository: str,
        certificates: Sequence[Certificate],
        *,
        days: int = DEFAULT_DAYS,
        algorithm: HashAlgorithm = HashAlgorithm.SHA1,
        now: datetime.datetime | None = None,
    ) -> Whitelist:
        """Return a whitelist for the given certificates, valid from now on."""
        created = (now or datetime.datetime.now(datetime.UTC)).replace(microsecond=0)
        return cls(
            repository=repository,
            created=created,
            expires=created + datetime.timedelta(days=days),
            fingerprints=tuple(certificate.fingerprint(algorithm) for certificate in certificates),
        )

    def text(self) -> bytes:
        """Return the lines to be signed."""
        head = [self.created.strftime(_TIME), "E" + self.expires.strftime(_TIME), "N" + self.repository]
        return "".join(line + "\n" for line in (*head, *self.options, *self.fingerprints)).encode()

    def signed(self, key: MasterKey) -> bytes:
        """Return the document for ``.cvmfswhitelist``, hashed as its fingerprints are."""
        text = self.text()
        hash_text = hash_to_sign(text, self._algorithm())
        return Letter(text, hash_text, key.sign(hash_text)).serialise()

    @classmethod
    def parse(cls, data: bytes) -> Whitelist:
        """Read a whitelist, without verifying it.

        :raises CorruptObject: when it is none
        """
        texts = [line.decode("utf-8", "replace") for line in lines(data.partition(b"\n--\n")[0])]
        if len(texts) < 4 or not (texts[1].startswith("E") and texts[2].startswith("N")):
            raise CorruptObject("The whitelist is malformed", remedy="Resign it with 'cvmfs_server resign'")
        try:
            created, expires = (
                datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.UTC)
                for text in (texts[0], texts[1][1:])
            )
        except ValueError:
            raise CorruptObject(
                "The whitelist has no readable dates", remedy="Resign it with 'cvmfs_server resign'"
            ) from None
        rest = texts[3:]
        options = tuple(text for text in rest if text[:1] in ("V", "W"))
        fingerprints = tuple(text for text in rest if text and text[:1] not in ("V", "W", "#"))
        return cls(
            repository=texts[2][1:], created=created, expires=expires, fingerprints=fingerprints, options=options
        )

    def lists(self, certificate: Certificate) -> bool:
        """Say whether the certificate's fingerprint is in the whitelist."""
        printed = {normal(fingerprint) for fingerprint in self.fingerprints}
        return any(normal(certificate.fingerprint(algorithm)) in printed for algorithm in self._algorithms())

    def remaining(self, now: datetime.datetime | None = None) -> datetime.timedelta:
        """Return how long the whitelist is still valid; negative once it has expired.

        Clients compare hours, and refuse the whole hour in which it expires.
        """
        hour = self.expires.replace(minute=0, second=0)
        return hour - (now or datetime.datetime.now(datetime.UTC))

    def require_valid(self, now: datetime.datetime | None = None) -> None:
        """Refuse an expired whitelist.

        :raises WhitelistExpired: then
        """
        if self.remaining(now) <= datetime.timedelta(0):
            raise WhitelistExpired(
                f"The whitelist of {self.repository} expired at {self.expires:%Y-%m-%d %H:00} UTC",
                remedy=f"Resign it where the master key is: cvmfs_server resign {self.repository}",
            )

    def _algorithms(self) -> set[HashAlgorithm]:
        return {
            algorithm
            for algorithm in HashAlgorithm
            for fingerprint in self.fingerprints
            if normal(fingerprint).partition("-")[2] == algorithm.suffix.removeprefix("-")
        }

    def _algorithm(self) -> HashAlgorithm:
        return min(self._algorithms() or {HashAlgorithm.SHA1}, key=lambda algorithm: algorithm.value)


def verify(data: bytes, keys: Sequence[rsa.RSAPublicKey], repository: str) -> Whitelist:
    """Verify a whitelist's signature and name; not its life time.

    :param keys: public halves of the master keys that are trusted
    :raises SignatureError: when none of them signed it, or it is another repository's
    """
    whitelist = Whitelist.parse(data)
    if "Vpkcs7" in whitelist.options:
        raise SignatureError(
            f"The whitelist of {whitelist.repository} is signed by PKCS#7, which is not supported",
            remedy="Resign it with an RSA master key",
        )
    letter = Letter.parse(data, f"The whitelist of {whitelist.repository}")
    if not verify_master(keys, letter.hash_text, letter.signature):
        raise SignatureError(
            f"The whitelist of {whitelist.repository} is not signed by a trusted master key",
            remedy="Provide the public key of the master key that signed it, or resign it with that master key",
        )
    if whitelist.repository != repository:
        raise SignatureError(
            f"The whitelist is for {whitelist.repository}, not for {repository}",
            remedy=f"Resign it: cvmfs_server resign {repository}",
        )
    return whitelist


def normal(fingerprint: str) -> str:
    """Return a fingerprint, as somebody may have written it, in one way; to compare it."""
    head = fingerprint
    for end in (" ", "\t", "#"):
        head = head.partition(end)[0]
    return head.replace(":", "").lower()


def printed(fingerprint: str) -> str:
    """Return a fingerprint in the way that whitelists have it."""
    digest, dash, algorithm = normal(fingerprint).upper().partition("-")
    return ":".join(digest[start : start + 2] for start in range(0, len(digest), 2)) + dash + algorithm
