# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server eliminate-bulk-hashes``: refer to files in chunks by their chunks only."""

from __future__ import annotations

from ..catalog.catalog import WritableCatalog
from .environment import Environment
from .rewrite import RewriteResult, rewrite


def eliminate_bulk_hashes(environment: Environment, name: str) -> RewriteResult:
    """Forget the objects with the whole content of files that are stored in chunks, too.

    :raises PublisherError: as `rewrite`
    """
    return rewrite(environment, name, WritableCatalog.drop_bulk_hashes)
