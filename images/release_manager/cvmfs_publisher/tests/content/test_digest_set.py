# SPDX-License-Identifier: GPL-3.0-or-later
"""Large sets of digests."""

from __future__ import annotations

import random
import tracemalloc

import pytest

from cvmfs_publisher.content import DigestSet
from cvmfs_publisher.content.hash import DIGEST_SIZE


@pytest.mark.parametrize("count", [0, 1, 1000, 100_000])
def test_it_is_a_set(count: int) -> None:
    numbers = random.Random(count)  # noqa: S311
    model = {numbers.randbytes(DIGEST_SIZE) for _ in range(count)}
    # Zeros at the end, which NumPy takes away
    model |= {bytes([n]) + bytes(DIGEST_SIZE - 1) for n in range(3)} | {
        bytes([1, n]).ljust(DIGEST_SIZE, b"\0") for n in (1, 2)
    }
    digests = DigestSet()
    for digest in model:
        assert digest not in digests
        assert digests.add(digest)
    assert not any(map(digests.add, model))
    assert all(digest in digests for digest in model)
    assert not any(numbers.randbytes(DIGEST_SIZE) in digests for _ in range(1000))
    assert len(digests) == len(model)
    assert list(digests) == sorted(model)
    assert digests.tobytes() == b"".join(sorted(model))
    assert all(digest in digests for digest in model)


def test_it_has_little_memory() -> None:
    numbers = random.Random(1)  # noqa: S311
    count = 300_000
    digests = DigestSet()
    tracemalloc.start()
    try:
        for _ in range(count):
            digests.add(numbers.randbytes(DIGEST_SIZE))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 80 * count
