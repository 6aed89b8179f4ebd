# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server fix-stats``: count anew what the catalogs have."""

from __future__ import annotations

from .environment import Environment
from .rewrite import RewriteResult, rewrite


def fix_stats(environment: Environment, name: str) -> RewriteResult:
    """Make the counters of all catalogs anew.

    :raises PublisherError: as `rewrite`
    """
    return rewrite(environment, name, lambda _: True, recount=True)
