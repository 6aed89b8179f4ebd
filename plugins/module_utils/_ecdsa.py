# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Verify ECDSA signatures on the curve P-256 with nothing but the standard library. Private to the collection.

For the same reason as :mod:`_rsa`: hosts need not have a cryptography package. All numbers here are public, so it
matters to nobody how long it takes; that is some 30 ms.
"""

from __future__ import annotations

import dataclasses
import hashlib

# FIPS 186-5 and SP 800-186, section 3.2.1.3: y^2 = x^3 - 3x + b modulo p, and a point g of prime order n
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_SIZE = 32  # bytes of a number


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """A point of P-256. ValueError if it is none."""

    x: int
    y: int

    def __post_init__(self):
        is_reduced = 0 <= self.x < _P and 0 <= self.y < _P
        if not is_reduced or (self.y * self.y - self.x**3 + 3 * self.x - _B) % _P != 0:
            raise ValueError("not a point of P-256")

    def verify_sha256(self, signature, message):
        """Whether `signature` is r and s, of 32 bytes each, over SHA-256: ES256 of JSON Web Signatures."""
        if len(signature) != 2 * _SIZE:
            return False
        r, s = (int.from_bytes(part, "big") for part in (signature[:_SIZE], signature[_SIZE:]))
        if not (0 < r < _N and 0 < s < _N):
            return False
        digest = int.from_bytes(hashlib.sha256(message).digest(), "big")
        inverse = pow(s, -1, _N)
        point = _add(_multiply(digest * inverse % _N, _G), _multiply(r * inverse % _N, (self.x, self.y)))
        return point is not None and point[0] % _N == r


def _multiply(number, point):
    """Return the sum of so many times the same point."""
    total = None
    while number:
        if number & 1:
            total = _add(total, point)
        point = _add(point, point)
        number >>= 1
    return total


def _add(first, second):
    """Return the sum of two points. None is the one at infinity, which changes nothing."""
    if first is None or second is None:
        return second if first is None else first
    if first[0] != second[0]:
        slope = (second[1] - first[1]) * pow(second[0] - first[0], -1, _P)
    elif (first[1] + second[1]) % _P:
        slope = (3 * first[0] * first[0] - 3) * pow(2 * first[1], -1, _P)
    else:
        return None
    x = (slope * slope - first[0] - second[0]) % _P
    return x, (slope * (first[0] - x) - first[1]) % _P
