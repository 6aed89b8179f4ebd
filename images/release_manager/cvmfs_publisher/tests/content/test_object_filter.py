# SPDX-License-Identifier: GPL-3.0-or-later
"""Large sets of object names: as a set, in little memory."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cvmfs_publisher.content.object_filter import ObjectFilter

SUFFIXES = ("", "P", "C")

names = st.tuples(st.integers(0, 40), st.sampled_from(SUFFIXES))


def digest(number: int) -> bytes:
    return hashlib.sha1(number.to_bytes(4), usedforsecurity=False).digest()


@given(rounds=st.lists(st.tuples(st.lists(names, max_size=10), st.lists(names, max_size=10)), max_size=6))
def test_is_a_set(rounds: list[tuple[list[tuple[int, str]], list[tuple[int, str]]]]) -> None:
    objects, model = ObjectFilter(), set()
    for added, asked in rounds:
        for suffix in SUFFIXES:
            objects.add(b"".join(digest(number) for number, kind in added if kind == suffix), suffix)
        model |= set(added)
        for suffix in SUFFIXES:
            numbers = [number for number, kind in asked if kind == suffix]
            found = objects.contains(b"".join(map(digest, numbers)), suffix)
            assert list(found) == [(number, suffix) in model for number in numbers]
    assert len(objects) == len(model)


def test_memory() -> None:
    """Two million of them; ten times as many still fit into a quarter of a gigabyte."""
    generator = np.random.default_rng(1)
    tracemalloc.start()
    objects = ObjectFilter()
    for _ in range(20):
        objects.add(generator.bytes(20 * 100_000), "")
    assert len(objects) == 2_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 << 20
