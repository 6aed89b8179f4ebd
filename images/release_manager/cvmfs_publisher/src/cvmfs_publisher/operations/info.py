# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server info`` and ``list``: what there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..content import ContentHash
from ..errors import PublisherError
from .checked_out import find_checkout
from .environment import Environment
from .transaction import find_session


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryInfo:
    """Summary of a repository.

    :param timestamp: when the revision was published, seconds since 1970
    :param whitelist_valid_days: whole days until the whitelist expires; negative once it has
    :param creator: ``CVMFS_CREATOR_VERSION``; empty where it is not set, or the repository is not configured here
    :param public_key: file with the master key's public half
    """

    repository: str
    revision: int
    root_hash: ContentHash
    timestamp: int
    replicable: bool
    garbage_collectable: bool
    whitelist_valid_days: int
    stratum0_url: str
    creator: str
    public_key: Path
    meta_info: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRepository:
    """One line of the list.

    :param type: ``stratum0``
    :param storage_type: ``S3`` or ``local``
    :param transaction: what everybody may know of the transaction that is open here, or None
    :param remarks: what a maintainer should know
    """

    repository: str
    type: str
    storage_type: str
    transaction: dict[str, object] | None
    remarks: list[str]


def info(environment: Environment, name: str, keychain: Path | None = None) -> RepositoryInfo:
    """Read a repository's entry points.

    :param name: or the repository's URL
    :param keychain: public master key, or a directory with it; by default what is configured
    :raises PublisherError: when they cannot be read, or are not to be trusted
    """
    with environment.open_for_reading(name, keychain) as repository:
        manifest = repository.manifest
        url, public_key, creator = name, environment.public_key_in(keychain, repository.name), ""
        if "://" not in name:
            settings = environment.settings(name)
            url, creator = settings.get("CVMFS_STRATUM0", ""), settings.get("CVMFS_CREATOR_VERSION", "")
            if keychain is None:
                public_key = environment.public_keys(settings)[0]
        return RepositoryInfo(
            repository=repository.name,
            revision=manifest.revision,
            root_hash=manifest.root_hash,
            timestamp=manifest.timestamp,
            replicable=repository.is_replicable(),
            garbage_collectable=manifest.garbage_collectable,
            whitelist_valid_days=repository.whitelist.remaining().days,
            stratum0_url=url,
            creator=creator,
            public_key=public_key,
            meta_info=repository.meta_info().decode("utf-8", "replace"),
        )


def list_repositories(environment: Environment, *, offline: bool = False) -> list[ListedRepository]:
    """Return the repositories that are configured here; what is wrong with one becomes a remark.

    :param offline: tell what this host knows alone, without a look at the storage, which may be down
    """
    return [_listed(environment, name, offline=offline) for name in environment.names()]


def _listed(environment: Environment, name: str, *, offline: bool) -> ListedRepository:
    kind = storage_type = "unknown"
    transaction = None
    remarks = []
    try:
        settings = environment.settings(name)
        kind = settings.get("CVMFS_REPOSITORY_TYPE", "stratum0")
        storage_type = settings.require("CVMFS_UPSTREAM_STORAGE").partition(",")[0]
        session = find_session(environment, settings)
        if session is not None:
            transaction = session.public()
            remarks.append("in transaction")
        checkout = find_checkout(environment, settings)
        if checkout is not None:
            remarks.append(f"[checked out tag '{checkout.tag}' on branch '{checkout.branch}']")
        if not offline:
            with environment.open(name, settings) as repository:
                if repository.whitelist.remaining().total_seconds() <= 0:
                    remarks.append("whitelist expired")
    except PublisherError as error:
        remarks.append(error.message)
    return ListedRepository(
        repository=name, type=kind, storage_type=storage_type, transaction=transaction, remarks=remarks
    )
