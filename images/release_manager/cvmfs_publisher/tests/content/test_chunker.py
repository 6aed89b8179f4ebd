# SPDX-License-Identifier: GPL-3.0-or-later
"""Cut marks, against a plain implementation of the rule."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvmfs_publisher.content import Chunking
from cvmfs_publisher.content.chunker import STEP, cut
from cvmfs_publisher.errors import ConfigurationError


def reference(data: bytes, chunking: Chunking) -> list[int]:
    """Return the sizes of the chunks, by the rule as it is written down, one byte at a time."""
    threshold = (2**32 - 1) // chunking.average
    sizes, begin, checksum = [], 0, 0
    for position, byte in enumerate(data):
        checksum = ((checksum << 1) ^ byte) & 0xFFFFFFFF
        distance = (checksum - (2**31 - 1) + 2**31) % 2**32 - 2**31
        near = distance == -(2**31) or abs(distance) < threshold
        size = position - begin
        if size == chunking.maximum or (size >= chunking.minimum and near):
            sizes.append(size)
            begin = position
    return [*sizes, len(data) - begin]


class Dribble(io.RawIOBase):
    """Gives a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._data.readinto(buffer[: self._most])


def pieces(data: bytes, chunking: Chunking, start: int = 0, most: int = STEP) -> list[bytes]:
    found = list(cut(Dribble(data[start:], most), chunking, memoryview(data)[:start]))
    assert [last for _, last in found] == [False] * (len(found) - 1) + [True]
    return [bytes(piece) for piece, _ in found]


# Content with few different bytes has marks, too: runs of 1 give the checksum 2**32 - 1.
CONTENT = st.one_of(
    st.builds(lambda seed, size: random.Random(seed).randbytes(size), st.integers(), st.integers(0, 9000)),  # noqa: S311
    st.builds(lambda part, times: part * times, st.binary(max_size=80), st.integers(0, 200)),
    st.lists(st.sampled_from([b"\0" * 50, b"\1" * 40, b"\xff" * 33, b"\x7f" + b"\xff" * 31, b"x"]), max_size=150).map(
        b"".join
    ),
)
SIZES = st.sampled_from(
    [Chunking(32, 33, 34), Chunking(64, 200, 500), Chunking(100, 1000, 3000), Chunking(32, 64, 9000)]
)


@settings(max_examples=400, deadline=None)
@given(CONTENT, SIZES, st.integers(0, 400), st.sampled_from([7, 64, STEP]))
def test_cuts_where_the_rule_says(data: bytes, chunking: Chunking, start: int, most: int) -> None:
    found = pieces(data, chunking, min(start, len(data)), most)
    assert b"".join(found) == data
    assert [len(piece) for piece in found] == reference(data, chunking)


def test_cuts_large_content_where_the_rule_says() -> None:
    """The default sizes, over the borders of all blocks."""
    data = random.Random(1).randbytes(20 << 20)  # noqa: S311
    found = pieces(data, Chunking())
    assert b"".join(found) == data
    assert len(found) > 1
    position = 0
    for piece in found[:-1]:
        assert 4 << 20 <= len(piece) <= 16 << 20
        position += len(piece)
        checksum = 0
        for byte in data[position - 31 : position + 1]:
            checksum = ((checksum << 1) ^ byte) & 0xFFFFFFFF
        assert len(piece) == 16 << 20 or abs(checksum - (2**31 - 1)) < 511


def test_equal_content_has_equal_chunks_wherever_it_is() -> None:
    chunking = Chunking(1000, 2000, 8000)
    data = random.Random(2).randbytes(200_000)  # noqa: S311
    moved = random.Random(3).randbytes(777) + data  # noqa: S311
    assert len(set(pieces(data, chunking)) & set(pieces(moved, chunking))) > 60


def test_cuts_hard_where_there_is_no_mark() -> None:
    assert [len(piece) for piece in pieces(bytes(1250), Chunking(64, 200, 500))] == [500, 500, 250]
    assert [len(piece) for piece in pieces(bytes(1000), Chunking(64, 200, 500))] == [500, 500]


def test_small_content_is_one_chunk() -> None:
    for data in (b"", b"x", bytes(64)):
        assert pieces(data, Chunking(64, 200, 500)) == [data]


@pytest.mark.parametrize("sizes", [(31, 64, 128), (64, 64, 128), (64, 128, 128), (0, 0, 0)])
def test_refuses_sizes_that_are_not_in_order(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigurationError, match="CVMFS_MIN_CHUNK_SIZE"):
        Chunking(*sizes)
