# SPDX-License-Identifier: GPL-3.0-or-later
"""Signatures, against the examples of the Amazon S3 API Reference ("Examples: Signature Calculations")."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from cvmfs_publisher.storage.sigv4 import EMPTY_SHA256, Signer, uri_encode

_NOW = datetime(2013, 5, 24, tzinfo=UTC)
_HOST = {"host": "examplebucket.s3.amazonaws.com"}


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "body", "signature"),
    [
        (
            "GET",
            "/test.txt",
            "",
            {"range": "bytes=0-9"},
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            "",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            "lifecycle=",
            {},
            b"",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            "max-keys=2&prefix=J",
            {},
            b"",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_signs_as_the_reference_does(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes, signature: str
) -> None:
    signer = Signer("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    digest = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
    signed = signer.sign(method, path, query, {**_HOST, **headers}, digest, _NOW)
    assert signed["authorization"].endswith(f",Signature={signature}")
    assert "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request" in signed["authorization"]


def test_keys_change_with_the_day() -> None:
    signer = Signer("a", "b", "us-east-1")
    today = signer.sign("GET", "/", "", _HOST, EMPTY_SHA256, _NOW)
    signer.sign("GET", "/", "", _HOST, EMPTY_SHA256, datetime(2013, 5, 25, tzinfo=UTC))
    assert signer.sign("GET", "/", "", _HOST, EMPTY_SHA256, _NOW) == today


def test_encodes_all_but_unreserved_characters() -> None:
    assert uri_encode("a-._~Z/ +ü", "/") == "a-._~Z/%20%2B%C3%BC"
    assert uri_encode("a/b") == "a%2Fb"
