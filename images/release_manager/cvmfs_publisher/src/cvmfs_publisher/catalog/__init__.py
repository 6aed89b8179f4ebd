# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs: the directory tree of a revision."""

from .catalog import Catalog, DirectoryRow, NestedReference
from .entry import AUTO_MARKER, MARKER, DirectoryEntry
from .statistics import Counters, Statistics
from .tree import CatalogTree
from .writable import CommitResult, WritableCatalogTree

__all__ = [
    "AUTO_MARKER",
    "MARKER",
    "Catalog",
    "CatalogTree",
    "CommitResult",
    "Counters",
    "DirectoryEntry",
    "DirectoryRow",
    "NestedReference",
    "Statistics",
    "WritableCatalogTree",
]
