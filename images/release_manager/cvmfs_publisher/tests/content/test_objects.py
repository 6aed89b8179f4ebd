# SPDX-License-Identifier: GPL-3.0-or-later
"""Compression, and single objects in a store."""

from __future__ import annotations

import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm, HashSuffix, fetch_object, put_object
from cvmfs_publisher.errors import ConfigurationError, CorruptObject, ObjectNotFound
from cvmfs_publisher.storage import ObjectStore

CONTENT = st.one_of(st.binary(max_size=2000), st.builds(lambda part, n: part * n, st.binary(), st.integers(0, 500)))


@given(CONTENT)
def test_zlib_reads_what_we_compress_and_we_what_zlib_compresses(data: bytes) -> None:
    assert zlib.decompress(Compression.ZLIB.compress(memoryview(data))) == data
    assert Compression.ZLIB.decompress(zlib.compress(data)) == data
    assert Compression.NONE.decompress(Compression.NONE.compress(data)) == data


@given(CONTENT, st.data())
def test_notices_damaged_streams(data: bytes, draw: st.DataObject) -> None:
    stored = bytes(Compression.ZLIB.compress(data))
    cut = draw.draw(st.integers(0, len(stored) - 1))
    for damaged in (stored[:cut], stored + b"x", b""):
        with pytest.raises(CorruptObject):
            Compression.ZLIB.decompress(damaged)


def test_settings() -> None:
    for compression in Compression:
        assert Compression.from_setting(compression.setting) is compression
    with pytest.raises(ConfigurationError, match="CVMFS_COMPRESSION_ALGORITHM=lz4"):
        Compression.from_setting("lz4")


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SHAKE128])
def test_puts_and_fetches(store: ObjectStore, algorithm: HashAlgorithm) -> None:
    data = b"SQLite format 3\0" * 1000
    content_hash, size = put_object(store, data, "C", algorithm)
    stored = store.get(content_hash.key())
    assert content_hash.key().endswith("C")
    assert len(stored) == size < len(data)
    assert algorithm.digest(stored) == content_hash.digest
    assert zlib.decompress(stored) == data
    assert fetch_object(store, content_hash) == data


@pytest.mark.parametrize("suffix", [HashSuffix.CERTIFICATE, HashSuffix.METAINFO])
def test_packs_what_replicas_repack_as_they_do(store_local: ObjectStore, suffix: HashSuffix) -> None:
    """As zlib 1.2 and 1.3 do; a Python that was built with another zlib fails here."""
    text = " ".join(str(number**3) for number in range(300)).encode()
    content_hash, _ = put_object(store_local, text, suffix)
    assert content_hash.hex == "4ec7417ef37deffbfaff58f2a896c79449b7a057"


def test_upstream_can_find_sha1_objects(store_local: ObjectStore) -> None:
    content_hash, _ = put_object(store_local, b"certificate", "X")
    stored = store_local.get(content_hash.key())
    digest = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
    assert content_hash.key() == f"data/{digest[:2]}/{digest[2:]}X"


def test_names_missing_and_damaged_objects(store_local: ObjectStore) -> None:
    content_hash, _ = put_object(store_local, b"x" * 100, "C")
    with pytest.raises(ObjectNotFound, match="data/00"):
        fetch_object(store_local, ContentHash(bytes(20)))
    store_local.put(content_hash.key(), b"damaged")
    with pytest.raises(CorruptObject, match=content_hash.key()):
        fetch_object(store_local, content_hash)


def test_names_objects_that_are_not_compressed(store_local: ObjectStore) -> None:
    content_hash = ContentHash.of(b"plain text")
    store_local.put(content_hash.key(), b"plain text")
    assert fetch_object(store_local, content_hash, Compression.NONE) == b"plain text"
    with pytest.raises(CorruptObject, match=content_hash.key()):
        fetch_object(store_local, content_hash)
