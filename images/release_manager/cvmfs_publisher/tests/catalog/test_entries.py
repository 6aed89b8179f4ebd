# SPDX-License-Identifier: GPL-3.0-or-later
"""What one entry may be, and how it is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.catalog import DirectoryEntry
from cvmfs_publisher.catalog.entry import algorithm_of, compression_of, pack_xattrs, unpack_xattrs
from cvmfs_publisher.content import Compression, ContentHash, HashAlgorithm
from cvmfs_publisher.errors import CorruptObject, SourceError

from .conftest import chunked, content_hash, directory, regular, symlink


@pytest.mark.parametrize(
    ("entry", "flags"),
    [
        (directory(), 1),
        (directory(is_nested_mountpoint=True), 1 | 2),
        (directory(is_nested_root=True), 1 | 32),
        (directory(is_bind_mountpoint=True, is_hidden=True), 1 | 0x4000 | 0x8000),
        (regular(b"x"), 4),
        (symlink(b"x"), 4 | 8),
        (DirectoryEntry(name=b"", mode=0o10644), 4 | 16),
        (chunked(b"x", (3, 4)), 4 | 64),
        (regular(b"x", is_external=True, is_direct_io=True), 4 | 128 | 0x10000),
        (regular(b"x", compression=Compression.NONE), 4 | 1 << 11),
        (regular(b"x", hash=ContentHash(bytes(19) + b"x", HashAlgorithm.SHAKE128)), 4 | 2 << 8),
    ],
)
def test_flags_are_cernvmfs_own(entry: DirectoryEntry, flags: int) -> None:
    assert entry.flags() == flags
    assert compression_of(flags) is entry.compression
    if entry.hash_algorithm is not None:
        assert algorithm_of(flags) is entry.hash_algorithm


@pytest.mark.parametrize(
    "entry",
    [
        directory(),
        regular(b"x"),
        symlink(b"../x"),
        chunked(b"x", (4, 2)),
        DirectoryEntry(name=b"", mode=0o20644, size=1281),
    ],
)
def test_sound_entries_have_no_problem(entry: DirectoryEntry) -> None:
    assert entry.problem() is None


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (regular(b"x", hash=None), "no content hash"),
        (replace(chunked(b"x", (4, 2)), size=7), "chunks have 6"),
        (replace(symlink(b"abc"), size=2), "target has 3 bytes"),
        (symlink(b""), "not a path"),
        (symlink(b"a\0b"), "not a path"),
        (directory(hash=content_hash(b"x")), "only regular files"),
        (directory(hardlink_group=1), "hard link to a directory"),
        (directory(symlink=b"x"), "only symbolic links"),
        (regular(b"x", symlink=b"x"), "only symbolic links"),
        (DirectoryEntry(name=b"", mode=0o10644, size=1), "no size"),
        (DirectoryEntry(name=b"", mode=0o644), "file type"),
        (regular(b"x", name=b"a/b"), "file name"),
        (regular(b"x", name=b".."), "file name"),
        (regular(b"x", name=b"n" * 256), "file name"),
        (regular(b"x", mtime_ns=10**9), "fraction"),
        (regular(b"x", uid=-1), "owner"),
        (regular(b"x", size=2**63), "out of range"),
        (regular(b"x", linkcount=0), "link count"),
    ],
)
def test_what_the_check_of_cernvmfs_refuses(entry: DirectoryEntry, problem: str) -> None:
    assert problem in (entry.problem() or "")


def test_chunks_must_not_have_gaps() -> None:
    entry = chunked(b"x", (4, 2))
    late = replace(entry.chunks[1], offset=5)
    assert "no chunk at byte 4" in (replace(entry, chunks=(entry.chunks[0], late)).problem() or "")


def test_xattrs_are_packed_as_by_cernvmfs() -> None:
    packed = pack_xattrs({b"user.b": b"", b"user.a": b"\0\1"})
    assert packed == b"\x01\x02" + b"\x06\x02user.a\0\1" + b"\x06\x00user.b"
    assert pack_xattrs({}) is None
    assert unpack_xattrs(None) == {}


names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


@given(st.dictionaries(names, st.binary(max_size=255), max_size=255))
def test_xattrs_survive(xattrs: dict[bytes, bytes]) -> None:
    assert unpack_xattrs(pack_xattrs(xattrs)) == xattrs


@pytest.mark.parametrize(
    "xattrs", [{b"n" * 256: b""}, {b"n": b"v" * 256}, {b"": b"v"}, {b"%d" % i: b"" for i in range(256)}]
)
def test_xattrs_that_do_not_fit_are_refused(xattrs: dict[bytes, bytes]) -> None:
    with pytest.raises(SourceError):
        pack_xattrs(xattrs)


@pytest.mark.parametrize(
    "blob", [b"", b"\x01", b"\x02\x00", b"\x01\x01", b"\x01\x01\x04\x01user", b"\x01\x01\x00\x01v"]
)
def test_damaged_xattrs_are_named(blob: bytes) -> None:
    with pytest.raises(CorruptObject):
        unpack_xattrs(blob)


def test_unknown_algorithms_are_named() -> None:
    with pytest.raises(CorruptObject, match="hash algorithm 8"):
        algorithm_of(4 | 7 << 8)
    with pytest.raises(CorruptObject, match="compression algorithm 5"):
        compression_of(4 | 5 << 11)
