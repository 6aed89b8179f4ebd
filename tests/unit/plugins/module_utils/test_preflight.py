# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of measured latencies, which on busy machines are noisy."""

from __future__ import annotations

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils._preflight import nodelay_advice

DELAYED = [0.017, *[0.044] * 14, *[0.052] * 6, 0.08, 0.1, 0.17, 0.43]  # seconds, as RGW without tcp_nodelay answers


@pytest.mark.parametrize(
    ("kept", "new", "advises"),
    [
        (DELAYED, [0.002] * 5, True),
        (DELAYED, [0.005, 0.03, 0.04, 0.06, 0.09], True),  # a busy machine
        ([0.001] * 25, [0.002] * 5, False),
        ([*[0.001] * 10, *[0.05] * 15], [0.002] * 5, False),  # busy, and nothing else
        ([0.08] * 25, [0.16] * 5, False),  # far away
    ],
)
def test_the_advice(kept: list[float], new: list[float], advises: bool) -> None:
    assert bool(nodelay_advice(kept, new)) == advises


def test_the_advice_has_the_remedy() -> None:
    (advice,) = nodelay_advice(DELAYED, [0.002] * 5)
    assert "takes 44 ms on a connection that is kept alive, and 2 ms on a new one" in advice
    assert "tcp_nodelay=1" in advice
