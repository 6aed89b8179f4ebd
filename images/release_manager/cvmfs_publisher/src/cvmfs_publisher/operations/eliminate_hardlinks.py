# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server eliminate-hardlinks``: make each name of a file a file of its own."""

from __future__ import annotations

from ..catalog.catalog import WritableCatalog
from .environment import Environment
from .rewrite import RewriteResult, rewrite


def eliminate_hardlinks(environment: Environment, name: str) -> RewriteResult:
    """Break up all groups of hard links; their content stays stored once.

    :raises PublisherError: as `rewrite`
    """
    return rewrite(environment, name, WritableCatalog.break_hard_links)
