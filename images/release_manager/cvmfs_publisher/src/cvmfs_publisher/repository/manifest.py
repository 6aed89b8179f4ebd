# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest, ``.cvmfspublished``: where everything in a revision is found from.

Each line is one letter and a value (CernVM-FS's ``manifest.cc``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..content import ContentHash, HashSuffix
from ..errors import CorruptObject, SignatureError
from .document import RESTORE
from .letter import Letter, hash_to_sign, lines

if TYPE_CHECKING:
    from .signing import Certificate, RepositoryKey

MANIFEST_KEY = ".cvmfspublished"
DEFAULT_TTL = 240
"""Seconds; how long clients may take to see a new revision unless the repository says otherwise."""

_ROOT_PATH = "d41d8cd98f00b204e9800998ecf8427e"  # MD5 of the empty path; clients accept nothing else


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One revision's entry point. In parentheses the letter of the line.

    :param repository: fully qualified name (N)
    :param root_hash: root catalog (C)
    :param catalog_size: bytes of the root catalog's database, uncompressed (B)
    :param revision: (S)
    :param ttl: seconds (D)
    :param timestamp: when it was published, seconds since 1970 (T)
    :param certificate: (X)
    :param history: tag database (H)
    :param meta_info: JSON object that describes the repository (M)
    :param reflog_hash: of ``.cvmfsreflog`` as it is stored (Y)
    :param garbage_collectable: (G)
    :param has_alt_catalog_path: whether there are copies of the first objects outside ``data/`` (A)
    """

    repository: str
    root_hash: ContentHash
    catalog_size: int
    revision: int
    ttl: int = DEFAULT_TTL
    timestamp: int = 0
    certificate: ContentHash | None = None
    history: ContentHash | None = None
    meta_info: ContentHash | None = None
    reflog_hash: ContentHash | None = None
    garbage_collectable: bool = False
    has_alt_catalog_path: bool = False

    def text(self) -> bytes:
        """Return the lines to be signed."""
        fields: list[tuple[str, str | int | ContentHash | None]] = [
            ("C", self.root_hash),
            ("B", self.catalog_size),
            ("R", _ROOT_PATH),
            ("D", self.ttl),
            ("S", self.revision),
            ("G", _yes(self.garbage_collectable)),
            ("A", _yes(self.has_alt_catalog_path)),
            ("N", self.repository),
            ("X", self.certificate),
            ("H", self.history),
            ("T", self.timestamp or None),
            ("M", self.meta_info),
            ("Y", self.reflog_hash),
        ]
        return "".join(
            f"{letter}{value.hex if isinstance(value, ContentHash) else value}\n"
            for letter, value in fields
            if value is not None
        ).encode()

    def signed(self, key: RepositoryKey) -> bytes:
        """Return the document for ``.cvmfspublished``."""
        text = self.text()
        hash_text = hash_to_sign(text, self.root_hash.algorithm)
        return Letter(text, hash_text, key.sign(hash_text)).serialise()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest, signed or not, without verifying it.

        :raises CorruptObject: when it is none
        """
        fields: dict[str, str] = {}
        for line in lines(data.partition(b"\n--\n")[0]):
            text = line.decode("utf-8", "replace")
            fields[text[:1]] = text[1:]

        def content_hash(letter: str, suffix: HashSuffix) -> ContentHash | None:
            return ContentHash.parse(fields[letter]).with_suffix(suffix) if letter in fields else None

        root_hash = content_hash("C", HashSuffix.CATALOG)
        if root_hash is None or fields.get("R") != _ROOT_PATH:
            raise CorruptObject("The manifest names no root catalog", remedy=RESTORE)
        try:
            return cls(
                repository=fields.get("N", ""),
                root_hash=root_hash,
                catalog_size=int(fields.get("B", 0)),
                revision=int(fields["S"]),
                ttl=int(fields["D"]),
                timestamp=int(fields.get("T", 0)),
                certificate=content_hash("X", HashSuffix.CERTIFICATE),
                history=content_hash("H", HashSuffix.HISTORY),
                meta_info=content_hash("M", HashSuffix.METAINFO),
                reflog_hash=content_hash("Y", HashSuffix.NONE),
                garbage_collectable=fields.get("G") == "yes",
                has_alt_catalog_path=fields.get("A") == "yes",
            )
        except (KeyError, ValueError) as error:
            raise CorruptObject(
                f"The manifest has no usable revision, time to live or size ({error})", remedy=RESTORE
            ) from None


def verify(data: bytes, certificate: Certificate, what: str = "The manifest") -> None:
    """Verify a manifest's signature.

    :param what: names it in messages
    :raises SignatureError: when it was not made by the certificate's key
    """
    letter = Letter.parse(data, what)
    if not certificate.verify(letter.hash_text, letter.signature):
        raise SignatureError(f"{what} is not signed by the key of its certificate", remedy=RESTORE)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
