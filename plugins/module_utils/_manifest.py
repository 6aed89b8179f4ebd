# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a repository says about itself in its manifest and its whitelist. Private to the collection.

Formats: CernVM-FS documentation, "Implementation Notes", sections "Repository Manifest" and "Signature Details".
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import time
import typing as t

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._rsa import PublicKey

# What follows the digest in the printed form of a hash -> hashlib's name and the digest's size in bytes.
ALGORITHMS = {"": ("sha1", 20), "-rmd160": ("ripemd160", 20), "-shake128": ("shake_128", 20)}
_HASH = re.compile(r"([0-9a-f]{40})(|-rmd160|-shake128)")
DEFAULT_DAYS = 30  # for which a whitelist is signed


class VerificationError(PublishingError):
    """Something in a repository is not what its signatures or hashes say."""


class WhitelistExpired(VerificationError):
    """All is well with a repository but the date until which clients trust it."""


def digest(data, algorithm=""):
    """Return the hexadecimal digest of `data`; `algorithm` is the suffix of a printed hash.

    VerificationError where Python does not have the algorithm: OpenSSL may come without RIPEMD-160.
    """
    name, size = ALGORITHMS[algorithm]
    if name == "shake_128":
        return hashlib.shake_128(data).hexdigest(size)
    try:
        return hashlib.new(name, data, usedforsecurity=False).hexdigest()
    except ValueError:
        raise VerificationError(
            f"The repository's hashes are of the algorithm {name}, which this machine's Python does not have; "
            "look at it from a machine whose OpenSSL has it"
        ) from None


def fingerprint(certificate_der, algorithm=""):
    """Return the printed hash of a certificate, as whitelists list it. VerificationError, as `digest`."""
    return digest(certificate_der, algorithm) + algorithm


def printed(listed):
    """Return a fingerprint in the form in which whitelists and openssl print it, such as ``AB:CD:…``."""
    digits, dash, algorithm = listed.upper().partition("-")
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)) + dash + algorithm


def hash_is(text, data):
    """Whether `text` is the printed hash of `data`."""
    match = _HASH.fullmatch(text)
    return match is not None and digest(data, match.group(2)) == match.group(1)


@dataclasses.dataclass(frozen=True)
class Letter:
    """Signed text: lines, ``--``, the hash of the lines, and a signature over the printed hash."""

    lines: list
    printed_hash: bytes
    signature: bytes
    intact: bool  # whether the hash is that of the lines

    @classmethod
    def parse(cls, data, what):
        """Take a letter apart. VerificationError if it is none; `what` names it in messages."""
        text, separator, rest = data.partition(b"\n--\n")
        printed, newline, signature = rest.partition(b"\n")
        if not separator or not newline:
            raise VerificationError(f"{what} is cut short or no signed document")
        intact = hash_is(printed.decode("ascii", "replace"), text + b"\n")
        return cls(text.decode("utf-8", "backslashreplace").split("\n"), printed, signature, intact)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """``.cvmfspublished``. Hashes are printed hashes; fields that a repository need not have may be None."""

    repository: t.Optional[str]
    revision: int
    root_hash: str
    root_size: t.Optional[int]
    certificate: t.Optional[str]
    history: t.Optional[str]
    meta_info: t.Optional[str]
    reflog: t.Optional[str]
    published: t.Optional[int]  # seconds since the epoch
    ttl: int  # seconds
    garbage_collectable: bool
    letter: Letter

    @classmethod
    def parse(cls, data):
        """Read a manifest; its signature is checked by :meth:`verify`."""
        letter = Letter.parse(data, "The manifest .cvmfspublished")
        fields = {line[0]: line[1:] for line in letter.lines if line}
        try:
            return cls(
                repository=fields.get("N"),
                revision=int(fields["S"]),
                root_hash=fields["C"],
                root_size=int(fields["B"]) if "B" in fields else None,
                certificate=fields.get("X"),
                history=fields.get("H"),
                meta_info=fields.get("M"),
                reflog=fields.get("Y"),
                published=int(fields["T"]) if "T" in fields else None,
                ttl=int(fields["D"]),
                garbage_collectable=fields.get("G") == "yes",
                letter=letter,
            )
        except KeyError as error:
            raise VerificationError(f"The manifest .cvmfspublished has no field {error.args[0]}") from None
        except ValueError as error:
            raise VerificationError(f"The manifest .cvmfspublished is malformed: {error}") from None

    def verify(self, certificate_der):
        """Raise VerificationError unless the certificate's key has signed this manifest."""
        key = _key(PublicKey.from_certificate, certificate_der, "The certificate")
        if not self.letter.intact:
            raise VerificationError("The manifest .cvmfspublished does not match its own hash")
        if not key.verify_sha1(self.letter.signature, self.letter.printed_hash):
            raise VerificationError("The manifest .cvmfspublished is not signed by the repository's certificate")


@dataclasses.dataclass(frozen=True)
class Whitelist:
    """``.cvmfswhitelist``: which certificates may sign manifests, until when."""

    repository: str
    created: datetime.datetime
    expires: datetime.datetime
    fingerprints: tuple  # printed hashes
    letter: Letter

    @classmethod
    def parse(cls, data):
        """Read a whitelist; its signature is checked by :meth:`verify`."""
        letter = Letter.parse(data, "The whitelist .cvmfswhitelist")
        try:
            created, expires, name = letter.lines[0], letter.lines[1], letter.lines[2]
            if not expires.startswith("E") or not name.startswith("N"):
                raise ValueError("it has no expiry date or no repository name")
            return cls(name[1:], _time(created), _time(expires[1:]), _fingerprints(letter.lines[3:]), letter)
        except (IndexError, ValueError) as error:
            raise VerificationError(f"The whitelist .cvmfswhitelist is malformed: {error}") from None

    def verify(self, public_keys):
        """Raise VerificationError unless one of the PEM public keys belongs to the master key that has signed this
        whitelist.
        """
        if not self.letter.intact:
            raise VerificationError("The whitelist .cvmfswhitelist does not match its own hash")
        keys = [_key(PublicKey.from_pem, text, "The public key") for text in public_keys]
        if not any(key.verify_raw(self.letter.signature, self.letter.printed_hash) for key in keys):
            raise VerificationError(
                "The whitelist .cvmfswhitelist is not signed by the master key that the public key belongs to",
                remedy="Is this the public key of this repository, and this the repository's URL?",
            )

    def is_expired(self, now=None):
        """Whether clients refuse it. They compare whole hours."""
        now = now or datetime.datetime.now(datetime.timezone.utc)
        return now.replace(minute=0, second=0, microsecond=0) >= self.expires.replace(minute=0, second=0)

    def lists(self, certificate_der):
        """Whether the certificate is one of those that may sign."""
        return any(hash_is(fingerprint, certificate_der) for fingerprint in self.fingerprints)


@dataclasses.dataclass(frozen=True)
class Lease:
    """Who has a transaction open, wherever: an object of this project's own, beside the manifest."""

    KEY = ".cvmfs_publishing_lease.json"
    _CLOCK_MARGIN = 60  # seconds by which the clocks of two hosts may differ
    _LASTING = 4102444800  # 2100-01-01, the end of those that last until they are broken

    holder: str
    transaction: str
    acquired: int  # seconds since the epoch, as all times here
    expires: int
    session: str
    is_released: bool

    @property
    def is_broken(self):
        """Whether somebody has broken it, and all have to wait for its end."""
        return not self.session and not self.is_released

    @property
    def is_lasting(self):
        """Whether it keeps everybody from publishing until it is broken, whatever becomes of its holder."""
        return self.expires >= self._LASTING and not self.is_released

    @property
    def free_from(self):
        """The moment from which on somebody else may have it, unless it is renewed or released."""
        return self.expires + self._CLOCK_MARGIN

    @classmethod
    def parse(cls, data):
        """Read a lease."""
        try:
            fields = json.loads(data)
            return cls(**{field.name: fields[field.name] for field in dataclasses.fields(cls)})
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationError(f"The lease {cls.KEY} is malformed: {error}") from None

    def is_over(self, now=None):
        """Whether somebody else may open a transaction."""
        return self.is_released or (now or time.time()) > self.free_from


def _key(read, source, what):
    try:
        return read(source)
    except (ValueError, IndexError) as error:
        raise VerificationError(
            f"{what} cannot be read: {error}", remedy="RSA keys in PEM form are expected."
        ) from None


def _time(text):
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=datetime.timezone.utc)


def _fingerprints(lines):
    """``AB:CD:…``, one a line, perhaps with a comment behind."""
    words = [re.split(r"[ \t#]", line, maxsplit=1)[0].replace(":", "").lower() for line in lines]
    return tuple(word for word in words if _HASH.fullmatch(word))
