# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server catalog-chown``: give everything to other users and groups."""

from __future__ import annotations

from pathlib import Path

from ..catalog.catalog import WritableCatalog
from ..changes.draft import VIRTUAL_DIRECTORY
from ..changes.owner_map import OwnerMap
from .environment import Environment
from .rewrite import RewriteResult, rewrite


def catalog_chown(environment: Environment, name: str, uid_map: Path, gid_map: Path) -> RewriteResult:
    """Change the owners that the catalogs have, but for those of instant snapshots, which are nobody's.

    :param uid_map: file with a map of users
    :param gid_map: file with a map of groups
    :raises ConfigurationError: when a map cannot be used
    :raises PublisherError: as `rewrite`
    """
    uids, gids = OwnerMap.load(uid_map), OwnerMap.load(gid_map)

    def change(catalog: WritableCatalog) -> bool:
        return catalog.path != VIRTUAL_DIRECTORY and catalog.map_owners(uids, gids)

    return rewrite(environment, name, change)
