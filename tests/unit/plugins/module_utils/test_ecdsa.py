# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures on P-256, as another implementation makes them and judges them."""

from __future__ import annotations

import hashlib
import os

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _ecdsa
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
PRIME = 2**256 - 2**224 + 2**192 + 2**96 - 1
MESSAGE = b"a message"
DIGEST = int.from_bytes(hashlib.sha256(MESSAGE).digest(), "big")


def both(number: int) -> tuple[ec.EllipticCurvePrivateKey, _ecdsa.PublicKey]:
    """A private key, and its public half as it is here."""
    key = ec.derive_private_key(number, ec.SECP256R1())
    numbers = key.public_key().public_numbers()
    return key, _ecdsa.PublicKey(numbers.x, numbers.y)


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def expect(number: int, r: int, s: int, message: bytes = MESSAGE) -> bool:
    """Whether the signature is good, on which the two have to agree."""
    key, public = both(number)
    try:
        key.public_key().verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        is_good = True
    except InvalidSignature:
        is_good = False
    assert public.verify_sha256(raw(r, s), message) is is_good
    return is_good


@pytest.mark.parametrize("number", [1, 2, ORDER - 1, ORDER // 2, None])
def test_signatures(number: int | None) -> None:
    number = number or int.from_bytes(os.urandom(31), "big")
    r, s = decode_dss_signature(both(number)[0].sign(MESSAGE, ec.ECDSA(hashes.SHA256())))
    assert expect(number, r, s)
    assert expect(number, r, ORDER - s)  # which is as good by the standard
    assert not expect(number, r, s, b"another message")
    assert not expect(number, s, r)
    assert not expect(number, r ^ 1, s)
    assert not expect(number, r, s ^ 1)
    assert not expect(number + 1 if number < ORDER - 1 else 3, r, s)


@pytest.mark.parametrize("r", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, ORDER - 1, ORDER, 2**256 - 1])
def test_numbers_at_the_ends(r: int, s: int) -> None:
    assert not expect(7, r, s)


def test_a_sum_of_equal_points() -> None:
    """A key and a signature that lead to the sum of a point with itself, and so are good."""
    nonce = 12345
    r = both(nonce)[1].x % ORDER
    number, s = DIGEST * pow(r, -1, ORDER) % ORDER, 2 * DIGEST * pow(nonce, -1, ORDER) % ORDER
    assert expect(number, r, s)


def test_a_sum_that_is_no_point() -> None:
    """A key and a signature that lead to the sum of a point and its opposite."""
    r = 12345
    assert not expect(-DIGEST * pow(r, -1, ORDER) % ORDER, r, 6789)


@pytest.mark.parametrize("size", [0, 63, 65, 70, 128])
def test_signatures_of_another_size_are_none(size: int) -> None:
    key, public = both(7)
    r, s = decode_dss_signature(key.sign(MESSAGE, ec.ECDSA(hashes.SHA256())))
    assert not public.verify_sha256((raw(r, s) * 2)[:size], MESSAGE)
    assert not public.verify_sha256(encode_dss_signature(r, s), MESSAGE)


@pytest.mark.parametrize("change", [(0, 1), (1, 0), (PRIME, 0), (0, PRIME)])
def test_what_is_no_point_is_refused(change: tuple[int, int]) -> None:
    public = both(7)[1]
    with pytest.raises(ValueError, match="not a point of P-256"):
        _ecdsa.PublicKey(public.x + change[0], public.y + change[1])
    with pytest.raises(ValueError, match="not a point of P-256"):
        _ecdsa.PublicKey(0, 0)
