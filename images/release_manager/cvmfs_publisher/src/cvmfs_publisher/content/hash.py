# SPDX-License-Identifier: GPL-3.0-or-later
"""Content hashes, which name the objects of a repository.

The text form is CernVM-FS's: lower-case hexadecimal digits, the name of the algorithm unless it is SHA-1, and
one letter for the kind of object unless it is a plain file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Protocol

from ..errors import ConfigurationError, CorruptObject

if TYPE_CHECKING:
    from ..storage import Bytes

DIGEST_SIZE = 20
"""Bytes in a digest; the same for every algorithm that names objects."""


class Hasher(Protocol):
    """A digest in the making."""

    def update(self, data: Bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class HashAlgorithm(Enum):
    """A hash algorithm; the value is its number in catalogs."""

    SHA1 = 1
    RMD160 = 2
    SHAKE128 = 3

    @property
    def suffix(self) -> str:
        """What follows the hexadecimal digits in the text form of a hash."""
        return _ALGORITHM_SUFFIX[self]

    @classmethod
    def from_setting(cls, text: str) -> HashAlgorithm:
        """Return the algorithm that ``CVMFS_HASH_ALGORITHM`` names.

        :raises ConfigurationError: for an unknown name
        """
        try:
            return cls[text.upper()]
        except KeyError:
            raise ConfigurationError(
                f"CVMFS_HASH_ALGORITHM={text} is not a hash algorithm", remedy="Use sha1, rmd160 or shake128"
            ) from None

    def digest(self, data: Bytes) -> bytes:
        """Return the digest of `data`. SHAKE128 is cut to 160 bits.

        :raises ConfigurationError: when this Python lacks the algorithm (RIPEMD-160 often is left out)
        """
        hasher = self.hasher()
        hasher.update(data)
        return hasher.digest()

    def hasher(self) -> Hasher:
        """Return what makes the digest of data that comes piece by piece.

        :raises ConfigurationError: as `digest`
        """
        if self is HashAlgorithm.SHA1:
            return hashlib.sha1(usedforsecurity=False)
        if self is HashAlgorithm.SHAKE128:
            return _Shake128()
        try:
            return hashlib.new("ripemd160", usedforsecurity=False)
        except ValueError:
            raise ConfigurationError(
                "This machine's OpenSSL does not offer RIPEMD-160",
                remedy="Enable OpenSSL's legacy provider, or use a repository with SHA-1",
            ) from None


class _Shake128:
    def __init__(self) -> None:
        self._state = hashlib.shake_128()

    def update(self, data: Bytes, /) -> None:
        self._state.update(data)

    def digest(self) -> bytes:
        return self._state.digest(DIGEST_SIZE)


_ALGORITHM_SUFFIX = {
    HashAlgorithm.SHA1: "",
    HashAlgorithm.RMD160: "-rmd160",
    HashAlgorithm.SHAKE128: "-shake128",
}
_ALGORITHM_OF_SUFFIX = {suffix: algorithm for algorithm, suffix in _ALGORITHM_SUFFIX.items()}


class HashSuffix(StrEnum):
    """The kind of object that a hash names, as the last letter of its key."""

    NONE = ""
    CATALOG = "C"
    HISTORY = "H"
    METAINFO = "M"
    PARTIAL = "P"
    CERTIFICATE = "X"


_TEXT = re.compile(r"([0-9a-f]{40})((?:-[a-z0-9]+)?)([A-Z]?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class ContentHash:
    """The hash of an object's stored (compressed) bytes.

    :param digest: 20 bytes
    :param algorithm: what made the digest
    :param suffix: the kind of object, one of `HashSuffix`'s letters or any other capital letter
    """

    digest: bytes
    algorithm: HashAlgorithm = HashAlgorithm.SHA1
    suffix: str = HashSuffix.NONE

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_SIZE:
            raise CorruptObject(f"A content hash has {DIGEST_SIZE} bytes, not {len(self.digest)}")

    @property
    def hex(self) -> str:
        """The text form without the object suffix, e.g. ``da39…0709`` or ``da39…0709-rmd160``."""
        return self.digest.hex() + self.algorithm.suffix

    def key(self) -> str:
        """Return the object's key in the store, e.g. ``data/da/39…0709C``."""
        digits = self.digest.hex()
        return f"data/{digits[:2]}/{digits[2:]}{self.algorithm.suffix}{self.suffix}"

    def with_suffix(self, suffix: str) -> ContentHash:
        """Return the same hash as the name of another kind of object."""
        return replace(self, suffix=suffix)

    def __str__(self) -> str:
        return self.hex + self.suffix

    @classmethod
    def of(cls, data: Bytes, algorithm: HashAlgorithm = HashAlgorithm.SHA1, suffix: str = "") -> ContentHash:
        """Return the hash of `data`, which is an object's stored form."""
        return cls(algorithm.digest(data), algorithm, suffix)

    @classmethod
    def parse(cls, text: str) -> ContentHash:
        """Return the hash that `text` prints, with or without an object suffix.

        :raises CorruptObject: when it is none
        """
        match = _TEXT.fullmatch(text)
        if match is None or match[2] not in _ALGORITHM_OF_SUFFIX:
            raise CorruptObject(f"{text!r} is not a content hash")
        return cls(bytes.fromhex(match[1]), _ALGORITHM_OF_SUFFIX[match[2]], match[3])
