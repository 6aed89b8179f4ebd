# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server migrate``: bring catalogs of earlier versions of CernVM-FS to the latest schema."""

from __future__ import annotations

from ..catalog.catalog import WritableCatalog
from .environment import Environment
from .rewrite import RewriteResult, rewrite


def migrate(environment: Environment, name: str) -> RewriteResult:
    """Rewrite the catalogs of schema 2.4, and those of earlier revisions of schema 2.5, with all counters.

    :raises CorruptObject: for a catalog of CernVM-FS 2.0
    :raises PublisherError: as `rewrite`
    """
    return rewrite(environment, name, _is_upgraded, recount=True)


def _is_upgraded(catalog: WritableCatalog) -> bool:
    return catalog.is_upgraded  # opening it for writing has done the rest
