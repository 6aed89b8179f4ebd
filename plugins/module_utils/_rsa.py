# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify RSA signatures with nothing but the standard library, CernVM-FS's and tokens'. Private to the collection.

Verification needs no secret, only one modular exponentiation. Done here it works on hosts without a cryptography
package, and on those whose system-wide policy refuses SHA-1 signatures, which CernVM-FS manifests have. It also shares
no code with the publisher.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

_RSA_OID = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1, rsaEncryption
_SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")  # DigestInfo of SHA-1, RFC 8017 section 9.2 note 1
_SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # the same of SHA-256
_SEQUENCE, _BIT_STRING, _OID, _VERSION = 0x30, 0x03, 0x06, 0xA0


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """An RSA public key."""

    modulus: int
    exponent: int

    @classmethod
    def from_pem(cls, text):
        """Read a PEM public key (``BEGIN PUBLIC KEY``). ValueError if it is none."""
        return cls._from_key_info(pem_content(text, "PUBLIC KEY"))

    @classmethod
    def from_certificate(cls, der):
        """Read the key of an X.509 certificate in DER. ValueError if there is none."""
        to_be_signed = _children(_children(der)[0][1])[0][1]
        fields = [field for field in _children(to_be_signed) if field[0] != _VERSION]
        # serial number, signature algorithm, issuer, validity, subject, subject public key information
        return cls._from_key_info(_encode(_SEQUENCE, fields[5][1]))

    @classmethod
    def _from_key_info(cls, der):
        algorithm, key = _children(_children(der)[0][1])[:2]
        if (_OID, _RSA_OID) not in _children(algorithm[1]) or key[0] != _BIT_STRING:
            raise ValueError("not an RSA key")
        modulus, exponent = _children(_children(key[1][1:])[0][1])
        return cls(int.from_bytes(modulus[1], "big"), int.from_bytes(exponent[1], "big"))

    def verify_raw(self, signature, message):
        """Whether `signature` is `message` itself, padded and encrypted: how CernVM-FS signs whitelists."""
        return self._recover(signature) == _pad(message, self._size)

    def verify_sha1(self, signature, message):
        """Whether `signature` is RSASSA-PKCS1-v1_5 over SHA-1: how CernVM-FS signs manifests."""
        digest = hashlib.new("sha1", message, usedforsecurity=False).digest()
        return self._recover(signature) == _pad(_SHA1_INFO + digest, self._size)

    def verify_sha256(self, signature, message):
        """Whether `signature` is RSASSA-PKCS1-v1_5 over SHA-256: RS256 of JSON Web Signatures."""
        return self._recover(signature) == _pad(_SHA256_INFO + hashlib.sha256(message).digest(), self._size)

    @property
    def _size(self):
        return (self.modulus.bit_length() + 7) // 8

    def _recover(self, signature):
        number = int.from_bytes(signature, "big")
        if len(signature) != self._size or number >= self.modulus:
            return None
        return pow(number, self.exponent, self.modulus).to_bytes(self._size, "big")


def pem_content(text, label):
    """Return the bytes of the first PEM block called `label`. ValueError if there is none."""
    match = re.search(rf"-----BEGIN {label}-----(.+?)-----END {label}-----", text, re.DOTALL)
    if match is None:
        raise ValueError(f"there is no PEM block BEGIN {label} in it")
    return base64.b64decode("".join(match.group(1).split()), validate=True)


def _pad(message, size):
    """PKCS #1 v1.5, block type 1; empty, which no recovered block is, if the message does not fit."""
    filling = size - 3 - len(message)
    return b"\x00\x01" + b"\xff" * filling + b"\x00" + message if filling >= 8 else b""


def _children(data):
    """Split DER `data` into (tag, content) pairs. ValueError if it ends too early."""
    found, position = [], 0
    while position < len(data):
        if position + 2 > len(data):
            raise ValueError("the DER structure is cut short")
        tag, length = data[position], data[position + 1]
        position += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[position : position + count], "big")
            position += count
        if position + length > len(data):
            raise ValueError("the DER structure is cut short")
        found.append((tag, data[position : position + length]))
        position += length
    return found


def _encode(tag, content):
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content
