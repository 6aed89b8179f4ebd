# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed documents: lines of text, a line with two dashes, the hash of the text, and a signature of that hash.

The manifest and the whitelist have this form (CernVM-FS's ``SignatureManager::VerifyLetter``).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..content import ContentHash, HashAlgorithm
from ..errors import CorruptObject, SignatureError
from .document import RESTORE

_SEPARATOR = b"--\n"


@dataclass(frozen=True, slots=True)
class Letter:
    """A signed document, taken apart.

    :param text: the signed lines
    :param hash_text: the printed hash of `text`, which is what the signature signs
    :param signature: raw bytes
    """

    text: bytes
    hash_text: bytes
    signature: bytes

    @classmethod
    def parse(cls, data: bytes, what: str) -> Letter:
        """Take a document apart, and compare its text with the hash in it.

        :param what: names the document in messages
        :raises SignatureError: when it is not signed, or was changed since
        """
        text, separator, rest = data.partition(b"\n" + _SEPARATOR)
        hash_text, newline, signature = rest.partition(b"\n")
        if not (separator and newline and signature):
            raise SignatureError(f"{what} is not signed, or cut short", remedy=RESTORE)
        letter = cls(text + b"\n", hash_text, signature)
        try:
            printed = ContentHash.parse(hash_text.decode("ascii", "replace"))
        except CorruptObject:
            raise SignatureError(f"{what} does not say which hash was signed", remedy=RESTORE) from None
        if printed.algorithm.digest(letter.text) != printed.digest:
            raise SignatureError(f"{what} was changed after it was signed", remedy=RESTORE)
        return letter

    def serialise(self) -> bytes:
        """Return the whole document."""
        return self.text + _SEPARATOR + self.hash_text + b"\n" + self.signature


def hash_to_sign(text: bytes, algorithm: HashAlgorithm) -> bytes:
    """Return the printed hash of a document's text."""
    return ContentHash.of(text, algorithm).hex.encode()


def lines(text: bytes) -> list[bytes]:
    """Return a document's lines."""
    return text.removesuffix(b"\n").split(b"\n")
