# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs_server rmfs``: remove a repository from this release manager, and if asked for, from its storage.

A repository's state is in its storage. What is here, configuration, keys and spool, can be made again, all but a
master key that is nowhere else. As upstream, a directory that a repository is kept in goes unless `preserve` is set,
and a bucket stays; `delete_storage` empties that, too. The manifest goes first, so that nobody reads half a repository,
and a publisher that is still at work cannot commit any more. All deletions are such as the store refuses once the lease
has ended: there may be another repository then.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import PublisherError, RepositoryError
from ..repository import Lease, ServerConfig
from ..repository.lease import LEASE_KEY
from ..repository.manifest import MANIFEST_KEY
from ..repository.whitelist import WHITELIST_KEY
from ..storage import ObjectStore
from .environment import Environment
from .server_info import withdraw
from .sweeper import UNCERTAIN, Sweeper
from .transaction import Keeper, exclusive, require_no_transaction

_KEY_KINDS = ("masterkey", "pub", "key", "crt", "gw")
_FIRST = (MANIFEST_KEY, WHITELIST_KEY)
_PROVIDED = (errno.EROFS, errno.EBUSY)  # what removing a file says that is mounted from elsewhere


@dataclass(frozen=True, slots=True, kw_only=True)
class RmfsResult:
    """What was removed.

    :param objects: how many went from the storage; None when that was left alone
    :param warnings: what could not be removed here
    """

    repository: str
    objects: int | None
    removed: list[Path]
    warnings: list[str]


def deletes_storage(settings: ServerConfig, *, preserve: bool, delete_storage: bool) -> bool:
    """Say whether a removal would take the content away."""
    is_local = settings.require("CVMFS_UPSTREAM_STORAGE").startswith("local,")
    return delete_storage or (is_local and not preserve)


def rmfs(environment: Environment, name: str, *, preserve: bool = False, delete_storage: bool = False) -> RmfsResult:
    """Remove a repository.

    :param preserve: keep the keys, and a directory with the repository
    :param delete_storage: delete all objects, in a bucket, too
    :raises InTransaction, LeaseHeld: while a transaction is open
    :raises RepositoryError: when the storage cannot be emptied, or has other repositories in it
    :raises StorageError: when it could be emptied in part; the removal can be repeated
    """
    settings = environment.settings(name)
    objects, warnings = None, []
    spool = environment.spool_dir(settings)
    if deletes_storage(settings, preserve=preserve, delete_storage=delete_storage):
        _refuse_whole_bucket(settings)
        with contextlib.closing(environment.store(settings)) as store:
            keeper = Keeper()
            with exclusive(environment, settings, store, keeper) as lease:
                objects, is_certain = _empty(store, name, lease, keeper)
            if is_certain:
                store.delete(LEASE_KEY)
            else:
                warnings.append(UNCERTAIN)
        warnings += withdraw(environment, settings)
        _remove_directories(settings)
    else:
        require_no_transaction(environment, settings)  # only what is here goes, but its secret is here
    removed = []
    kinds = () if preserve else _KEY_KINDS
    files = [environment.keys_dir / f"{name}.{kind}" for kind in kinds]
    for path in (*files, environment.repository_dir(name), spool):
        if path.exists():
            warning = _remove(path)
            warnings += warning
            removed += [path] if not warning else []
    return RmfsResult(repository=name, objects=objects, removed=removed, warnings=warnings)


def _refuse_whole_bucket(settings: ServerConfig) -> None:
    kind, _, location = settings.require("CVMFS_UPSTREAM_STORAGE").split(",", 2)
    if kind != "local" and not location.partition("@")[0].strip("/"):
        raise RepositoryError(
            f"{settings.repository} has no prefix in its bucket, so all of the bucket would be deleted",
            remedy="If that is meant, delete the bucket by the storage's own means, then: "
            f"cvmfs_server rmfs {settings.repository}",
        )


def _empty(store: ObjectStore, name: str, lease: Lease, keeper: Keeper) -> tuple[int, bool]:
    """Delete all objects but the lease, and return how many, and whether no deletion can be under way any more.

    :raises LeaseHeld, NotInTransaction: when the lease is lost: there may be another repository soon
    """
    is_listed = False
    for info in store.list(""):
        is_listed = True
        if info.key.endswith(f"/{MANIFEST_KEY}"):
            raise RepositoryError(
                f"Another repository is in the storage of {name}: {info.key} in {store.describe()}",
                remedy="Correct CVMFS_UPSTREAM_STORAGE, or remove the other first; nothing was deleted",
            )
    if not is_listed and store.exists(MANIFEST_KEY):
        raise RepositoryError(
            f"The objects of {name} cannot be listed in {store.describe()}: the bucket has no index",
            remedy="Delete the bucket, or the objects by the storage's own means; nothing was deleted",
        )
    with Sweeper(store, lease) as sweeper:
        keeper.on_loss(sweeper.call_off)
        first = [key for key in _FIRST if store.exists(key)]
        for key in first:
            sweeper.delete(key)
            sweeper.wait()
        count = len(first)
        for info in store.list(""):
            if info.key != LEASE_KEY:
                sweeper.delete(info.key)
                count += 1
        sweeper.wait()
    return count, sweeper.is_certain


def _remove_directories(settings: ServerConfig) -> None:
    """Remove what is left of a repository in a directory: the directories."""
    kind, _, location = settings.require("CVMFS_UPSTREAM_STORAGE").split(",", 2)
    if kind == "local":
        shutil.rmtree(location, ignore_errors=True)


def _remove(path: Path) -> list[str]:
    """Remove a file or directory; return a warning if it is provided from elsewhere, as in a container."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        if error.errno in _PROVIDED:
            return [f"{path} is mounted from elsewhere ({error.strerror}); remove it where it comes from"]
        raise PublisherError(
            f"Cannot remove {path}: {error.strerror}", remedy="Remove it by hand, then repeat the removal"
        ) from error
    return []
