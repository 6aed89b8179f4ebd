# SPDX-License-Identifier: GPL-3.0-or-later
"""What a revision says about the repository as a whole: time to live, membership requirement, flags of the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..catalog import WritableCatalogTree
from ..errors import UsageError
from ..paths import ROOT
from ..repository import Manifest, ServerConfig
from ..repository.manifest import DEFAULT_TTL

REQUIREMENT = "voms_authz"
"""The root catalog's property with the membership requirement, which clients give to an authorization helper."""

GRAFTS = "cvmfs_publishing_grafts"
"""The root catalog's property which says that there may be grafted files, whose data nobody has seen in the store."""


def with_settings(manifest: Manifest, settings: ServerConfig) -> Manifest:
    """Return the manifest with what the configuration asks for; what it leaves open stays as it is."""
    return replace(
        manifest,
        ttl=settings.number("CVMFS_REPOSITORY_TTL", 0) or manifest.ttl,
        garbage_collectable=settings.flag("CVMFS_GARBAGE_COLLECTION", default=manifest.garbage_collectable),
        has_alt_catalog_path=settings.flag("CVMFS_CATALOG_ALT_PATHS", default=manifest.has_alt_catalog_path),
    )


def has_grafts(tree: WritableCatalogTree) -> bool:
    """Say whether files have been grafted since the repository was made, by this publisher."""
    return GRAFTS in tree.catalog(ROOT).properties()


def requirement_of(tree: WritableCatalogTree) -> str | None:
    """Return the membership requirement of the tree's revision; None when anybody may read it."""
    return tree.catalog(ROOT).properties().get(REQUIREMENT)


def choose_requirement(current: str | None, settings: ServerConfig, authz_file: Path | None) -> str | None:
    """Return the membership requirement of the next revision.

    As upstream's, it stays in the catalogs until a publish is given another. Where there is none, that of the
    configuration is taken, so that a repository which is configured to be confidential becomes it.

    :param authz_file: has the new requirement; an empty file ends it
    :raises UsageError: when the file cannot be read
    """
    if authz_file is None:
        return current or settings.get("CVMFS_VOMS_AUTHZ") or None
    try:
        return authz_file.read_text("utf-8") or None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(
            f"Cannot read the membership requirement from {authz_file}: {reason}",
            remedy="Name a file with the text for the clients' authorization helper",
        ) from None


def set_properties(tree: WritableCatalogTree, ttl: int, requirement: str | None, *, grafted: bool = False) -> None:
    """Write into the root catalog what clients and the next publishes look for there.

    :param ttl: seconds
    :param grafted: whether the revision grafts files; once it is known, it stays
    """
    root = tree.catalog(ROOT)
    if (root.ttl or DEFAULT_TTL) != ttl:
        tree.set_root_property("TTL", str(ttl))
    if root.properties().get(REQUIREMENT) != requirement:
        tree.set_root_property(REQUIREMENT, requirement)
    if grafted and not has_grafts(tree):
        tree.set_root_property(GRAFTS, "true")
