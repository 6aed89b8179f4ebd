# SPDX-License-Identifier: GPL-3.0-or-later
"""Content hashes and their text form."""

from __future__ import annotations

import hashlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.content import ContentHash, HashAlgorithm, HashSuffix
from cvmfs_publisher.errors import ConfigurationError, CorruptObject

HASHES = st.builds(
    ContentHash,
    st.binary(min_size=20, max_size=20),
    st.sampled_from(HashAlgorithm),
    st.sampled_from(["", *string.ascii_uppercase]),
)
EMPTY = "da39a3ee5e6b4b0d3255bfef95601890afd80709"


@given(HASHES)
def test_prints_and_parses(content_hash: ContentHash) -> None:
    assert ContentHash.parse(str(content_hash)) == content_hash
    assert ContentHash.parse(content_hash.hex) == content_hash.with_suffix("")
    text = str(content_hash)
    assert content_hash.key() == f"data/{text[:2]}/{text[2:]}"


@given(st.text(max_size=60))
def test_parses_nothing_else(text: str) -> None:
    with pytest.raises(CorruptObject, match="is not a content hash"):
        ContentHash.parse(text)


@pytest.mark.parametrize(
    ("text", "algorithm", "suffix"),
    [
        (EMPTY, HashAlgorithm.SHA1, ""),
        (EMPTY + "C", HashAlgorithm.SHA1, HashSuffix.CATALOG),
        (EMPTY + "-rmd160", HashAlgorithm.RMD160, ""),
        (EMPTY + "-rmd160P", HashAlgorithm.RMD160, HashSuffix.PARTIAL),
        (EMPTY + "-shake128X", HashAlgorithm.SHAKE128, HashSuffix.CERTIFICATE),
    ],
)
def test_has_upstreams_form(text: str, algorithm: HashAlgorithm, suffix: str) -> None:
    parsed = ContentHash.parse(text)
    assert (parsed.digest.hex(), parsed.algorithm, parsed.suffix) == (EMPTY, algorithm, suffix)
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["", EMPTY[:-1], EMPTY + "0", EMPTY.upper(), EMPTY + "-md5", EMPTY + "-sha1", EMPTY + "CC", EMPTY + "\n", "٣" * 40],
)
def test_refuses(text: str) -> None:
    with pytest.raises(CorruptObject):
        ContentHash.parse(text)


def test_refuses_digests_of_other_sizes() -> None:
    with pytest.raises(CorruptObject):
        ContentHash(b"short")


def test_digests() -> None:
    assert ContentHash.of(b"").hex == EMPTY
    assert ContentHash.of(memoryview(b"abc"), HashAlgorithm.SHAKE128).digest == hashlib.shake_128(b"abc").digest(20)
    try:
        digest = HashAlgorithm.RMD160.digest(b"")
    except ConfigurationError as error:
        assert "RIPEMD-160" in str(error)  # noqa: PT017
    else:
        assert digest.hex() == "9c1185a5c5e9fc54612808977ee8f548b2258d31"


def test_settings() -> None:
    assert HashAlgorithm.from_setting("sha1") is HashAlgorithm.SHA1
    assert HashAlgorithm.from_setting("shake128") is HashAlgorithm.SHAKE128
    with pytest.raises(ConfigurationError, match="CVMFS_HASH_ALGORITHM=md5"):
        HashAlgorithm.from_setting("md5")
