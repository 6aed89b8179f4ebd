# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptions of grafted files."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.changes.graft import Graft
from cvmfs_publisher.content import Chunk, Compression, ContentHash, HashAlgorithm, HashSuffix
from cvmfs_publisher.errors import SourceError

A, B = "a" * 40, "b" * 40


@st.composite
def grafts(draw: st.DrawFn) -> Graft:
    algorithm = draw(st.sampled_from(HashAlgorithm))
    digests = st.builds(ContentHash, st.binary(min_size=20, max_size=20).filter(any), st.just(algorithm))
    compression = draw(st.none() | st.sampled_from(Compression))
    sizes = draw(st.lists(st.integers(1, 2**40), max_size=5))
    ends = list(itertools.accumulate(sizes, initial=0))
    chunks = tuple(
        Chunk(offset, size, draw(digests).with_suffix(HashSuffix.PARTIAL))
        for offset, size in zip(ends, sizes, strict=False)
    )
    whole = draw(st.none() | digests) if chunks else draw(digests)
    return Graft(ends[-1] if chunks else draw(st.integers(0, 2**62)), whole, chunks, compression)


def written(graft: Graft) -> str:
    """Return the description, as CernVM-FS's own program writes it."""
    pieces = graft.chunks
    suffix = (graft.hash or pieces[0].hash).algorithm.suffix
    lines = ["# made by hand", "", f"size={graft.size}", f"checksum={graft.hash or '0' * 40 + suffix}"]
    if graft.compression is not None:
        lines.append(f"compression={'zlib' if graft.compression is Compression.ZLIB else 'none'}")
    if pieces:
        lines.append("chunk_offsets=" + ",".join(str(piece.offset) for piece in pieces))
        lines.append("chunk_checksums = " + ",".join(str(piece.hash) for piece in pieces))
    return "".join(line + "\n" for line in lines)


@given(grafts())
def test_reads_what_upstream_writes(graft: Graft) -> None:
    assert Graft.parse(written(graft).encode(), b"f") == graft


@given(st.binary(max_size=200))
def test_anything_else(data: bytes) -> None:
    with pytest.raises(SourceError, match="does not describe a grafted file"):
        Graft.parse(data, b"f")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"checksum={A}", "it does not set size"),
        ("size=1", "it does not set checksum"),
        (f"size=-1\nchecksum={A}", "'-1' is no number of bytes"),
        (f"size=9223372036854775808\nchecksum={A}", "is no number of bytes"),
        (f"size=1\nsize=1\nchecksum={A}", "line 2 sets size again"),
        (f"size=1\nchecksum={A}\nnonsense", "line 3 does not set any of size, checksum"),
        (f"size=1\nchecksum={A}\ncompresion=none", "line 3 does not set any of"),
        (f"size=1\nchecksum={A}\ncompression=lzma", "'lzma' is not a compression algorithm"),
        ("size=1\nchecksum=abc", "'abc' is not a content hash"),
        (f"size=1\nchecksum={'0' * 40}", "it names neither an object nor chunks"),
        (f"size=9\nchecksum={A}\nchunk_offsets=0,5\nchunk_checksums={A}", "it has 2 chunk_offsets and 1"),
        (f"size=9\nchecksum={A}\nchunk_offsets=0\nchunk_checksums={A}-rmd160", "of different algorithms"),
        (f"size=9\nchecksum={A}\nchunk_offsets=1,5\nchunk_checksums={A},{B}", "do not rise from 0 to less than 9"),
        (f"size=9\nchecksum={A}\nchunk_offsets=0,0\nchunk_checksums={A},{B}", "do not rise from 0 to less than 9"),
        (f"size=9\nchecksum={A}\nchunk_offsets=0,9\nchunk_checksums={A},{B}", "do not rise from 0 to less than 9"),
        (f"size=9\nchecksum={A}\nchunk_offsets=0,x\nchunk_checksums={A},{B}", "'x' is no number of bytes"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(SourceError, match="does not describe a grafted file") as caught:
        Graft.parse(text.encode(), b"dir/.cvmfsgraft-f")
    assert says in caught.value.message
    assert caught.value.message.startswith("dir/.cvmfsgraft-f ")
