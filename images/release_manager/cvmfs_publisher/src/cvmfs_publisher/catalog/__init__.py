# SPDX-License-Identifier: GPL-3.0-or-later
"""Catalogs: the directory tree of a revision."""

from .catalog import Catalog, NestedReference
from .entry import MARKER, DirectoryEntry
from .statistics import Counters, Statistics
from .tree import CatalogTree
from .writable import CommitResult, WritableCatalogTree

__all__ = [
    "MARKER",
    "Catalog",
    "CatalogTree",
    "CommitResult",
    "Counters",
    "DirectoryEntry",
    "NestedReference",
    "Statistics",
    "WritableCatalogTree",
]
