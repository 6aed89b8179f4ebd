# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that are read piece by piece, from every kind of store."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from operations.reading import served

from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm, fetch_large_object, verify_object
from cvmfs_publisher.errors import CorruptObject, ObjectNotFound
from cvmfs_publisher.storage import HttpStore, LocalStore, ObjectStore

PART = 1000


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 5 * PART + 7])
def test_pieces_make_the_object(store: ObjectStore, size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    store.put("data/ab/object", data)
    parts = list(store.get_in_parts("data/ab/object", PART))
    assert b"".join(parts) == data
    assert all(len(part) <= PART for part in parts)


def test_a_missing_object_has_no_pieces(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound, match="nothing"):
        list(store.get_in_parts("data/00/nothing", PART))


def test_a_web_server_without_ranges_sends_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(5 * PART))
    with served(tmp_path) as url, HttpStore(url) as store:
        assert list(store.get_in_parts("object", PART)) == [bytes(5 * PART)]
        with pytest.raises(ObjectNotFound, match="none"):
            list(store.get_in_parts("none", PART))


@pytest.mark.parametrize("compression", Compression)
def test_a_large_object_becomes_a_file(tmp_path: Path, compression: Compression) -> None:
    store = LocalStore(tmp_path / "storage")
    for size in (0, 1, 10 << 20):
        data = bytes(index % 251 for index in range(1000)) * (size // 1000) + bytes(size % 1000)
        stored = compression.compress(data)
        name = ContentHash.of(stored)
        store.put(name.key(), stored)
        fetch_large_object(store, name, compression, tmp_path / str(size))
        assert (tmp_path / str(size)).read_bytes() == data
    assert not list(tmp_path.glob("*.stored"))


@pytest.mark.parametrize("stored", [b"", b"no zlib", Compression.ZLIB.compress(b"x") + b"y", b"x\x9c"])
def test_what_is_no_proper_stream_is_refused(tmp_path: Path, stored: bytes) -> None:
    store = LocalStore(tmp_path / "storage")
    name = ContentHash.of(stored)
    store.put(name.key(), stored)
    with pytest.raises(CorruptObject, match=name.key()):
        fetch_large_object(store, name, Compression.ZLIB, tmp_path / "target")
    with pytest.raises(CorruptObject, match=name.key()):
        verify_object(store, name, Compression.ZLIB)


def test_what_does_not_match_its_name_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "storage")
    name = ContentHash.of(b"other")
    store.put(name.key(), Compression.ZLIB.compress(b"text"))
    with pytest.raises(CorruptObject, match="does not match its name"):
        fetch_large_object(store, name, Compression.ZLIB, tmp_path / "target")
    with pytest.raises(ObjectNotFound, match="is missing"):
        fetch_large_object(store, ContentHash.of(b"none"), Compression.ZLIB, tmp_path / "target")
    with pytest.raises(CorruptObject, match="does not match its name"):
        verify_object(store, name, Compression.ZLIB)
    with pytest.raises(ObjectNotFound, match="is missing"):
        verify_object(store, ContentHash.of(b"none"), Compression.ZLIB)


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SHAKE128])
@pytest.mark.parametrize("compression", Compression)
def test_an_object_is_verified_in_little_memory(
    tmp_path: Path, compression: Compression, algorithm: HashAlgorithm
) -> None:
    """Of what it is decompressed to, too."""
    store = LocalStore(tmp_path / "storage")
    for data in (b"", bytes(200 << 20), os.urandom(100 << 20)):
        stored = compression.compress(data)
        name = ContentHash.of(stored, algorithm)
        store.put(name.key(), stored)
        size = len(stored)
        del data, stored
        tracemalloc.start()
        try:
            assert verify_object(store, name, compression) == size
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 20 << 20
