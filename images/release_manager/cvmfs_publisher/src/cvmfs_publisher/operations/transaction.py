# SPDX-License-Identifier: GPL-3.0-or-later
"""Transactions: who may publish next.

A transaction is a lease in the repository's storage, which all hosts see, and a session file in this release manager's
spool directory, which holds the secret that proves the lease to be ours. Losing the session file loses nothing but the
transaction: the lease expires.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..catalog import CatalogTree
from ..content import ContentHash, HashSuffix
from ..errors import (
    ConfigurationError,
    EndpointUnreachable,
    InTransaction,
    LeaseHeld,
    NotADirectory,
    NotInTransaction,
    PathNotFound,
    PublisherError,
    StorageError,
)
from ..mount.overlay import UnionKind
from ..paths import ROOT, display, parse
from ..repository import Lease, Repository, ServerConfig
from ..repository.lease import CLOCK_MARGIN, LIFETIME, break_lease, new_session, peek, utc
from ..storage import ObjectStore
from .checked_out import find_checkout
from .environment import Environment
from .hooks import Hook, call_hook
from .template import Template, clone
from .union import Union, union_dir, why_impossible

_SESSION_FILE = "transaction.json"
_RETRY_EVERY = 5.0  # seconds between two attempts at a lease that somebody else holds
_RENEW_EVERY = LIFETIME / 4  # seconds
_PATIENCE = 2.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """An open transaction, as its release manager knows it.

    :param id: public name of the transaction
    :param path: the part of the repository that it is for; empty for all
    :param revision: the repository's newest revision when it began
    :param root_hash: that revision's root catalog
    :param opened: seconds since 1970
    :param mount_point: where the repository can be edited in place; empty in a mountless transaction
    :param union: name of the `UnionKind` there; empty until it is mounted
    :param claimed: whether the union shows everything as its user's
    :param token: proves the lease to be ours; secret
    :param clone: root catalog of the copy that a template made; empty without one
    :param cloned: where that copy is, in the repository
    :param cloned_entries: number of its files, directories and the like
    :param checkout: root catalog of the tag that was checked out when it began; empty for the newest revision
    :param for_upstream: whether it is one of CernVM-FS's own tools, which have mounts and a scratch area of their own
    """

    id: str
    repository: str
    path: str
    revision: int
    root_hash: str
    opened: int
    mount_point: str = ""
    union: str = ""
    claimed: bool = False
    token: str = dataclasses.field(repr=False)
    clone: str = ""
    cloned: str = ""
    cloned_entries: int = 0
    checkout: str = ""
    for_upstream: bool = False

    @property
    def begins_with(self) -> str:
        """The root catalog of what the transaction changes."""
        return self.clone or self.checkout or self.root_hash

    @property
    def union_kind(self) -> UnionKind | None:
        return UnionKind[self.union] if self.union else None

    @property
    def is_interactive(self) -> bool:
        """Whether it has a scratch area, with work that is nowhere else."""
        return bool(self.mount_point) or self.for_upstream

    def public(self) -> dict[str, object]:
        """Return what everybody may know."""
        return {
            "id": self.id,
            "repository": self.repository,
            "path": self.path,
            "revision": self.revision,
            "opened": datetime.datetime.fromtimestamp(self.opened, datetime.UTC).isoformat(),
            "mount_point": self.mount_point or None,
        }


def open_transaction(
    environment: Environment,
    name: str,
    path: str = "",
    *,
    retry_timeout: int | None = None,
    template: Template | None = None,
    hooks: bool = True,
    interactive: bool = False,
    claimed: bool = False,
    for_upstream: bool = False,
    opened: Repository | None = None,
    transaction_id: str | None = None,
) -> Session:
    """Take the repository's lease and note the session.

    :param path: a directory of the repository, outside which the transaction may not publish
    :param retry_timeout: seconds to wait for somebody else's lease to end; 0 waits for ever, None not at all
    :param template: what to copy, before anything else
    :param hooks: whether to call the server hooks
    :param interactive: mount the repository, to be edited in place
    :param claimed: show everything in it as this process's user's, where no other user is known
    :param for_upstream: CernVM-FS's own tools will publish, so that settings need not be such as are honoured here
    :param opened: as for `Environment.open`
    :param transaction_id: its id to be, for who has to find it even if an interruption comes before this returns
    :raises InTransaction: when this release manager has a transaction open already
    :raises LeaseHeld: when somebody else has
    :raises WhitelistExpired: when what would be published could not be signed
    :raises PathNotFound, NotADirectory: when `path` is no directory of the repository
    :raises TemplateError: when the template cannot be copied
    :raises HookFailed: when a hook fails; after the last one the transaction is open all the same
    :raises PublisherError: when the repository cannot be mounted
    """
    settings = environment.settings(name) if for_upstream else environment.supported_settings(name)
    directory = parse(path)
    file = _session_file(environment, settings)
    reason = why_impossible() if interactive else None
    if reason is not None:
        raise PublisherError(
            f"{name} cannot be mounted: {reason}",
            remedy="Start the container with --device /dev/fuse --cap-add SYS_ADMIN, or use a mountless transaction",
        )
    session: Session | None = None
    try:
        with environment.open(name, settings, opened=opened) as repository:
            repository.whitelist.require_valid()
            checkout = find_checkout(environment, settings)
            root_hash = checkout.root_hash if checkout else repository.manifest.root_hash
            if directory != ROOT:
                _require_directory(environment, settings, repository, root_hash, directory)
            if hooks:
                call_hook(environment, name, Hook.TRANSACTION_BEFORE)
            session = Session(
                id=transaction_id or str(uuid.uuid4()),
                repository=name,
                path=path.strip("/"),
                revision=repository.manifest.revision,
                root_hash=repository.manifest.root_hash.hex,
                opened=int(time.time()),
                mount_point=str(union_dir(settings)) if interactive else "",
                claimed=claimed,
                token=new_session(),
                checkout=checkout.root_hash.hex if checkout else "",
                for_upstream=for_upstream,
            )
            # The file first: it keeps a second process of this release manager out. It goes if there is no lease.
            _write(file, session, exclusive=True)
            _acquire(repository.store, session, retry_timeout)
            session = _begin_with_newest(environment, settings, repository, session, file, template)
    except (InTransaction, ConfigurationError):
        raise  # the session file is not ours
    except BaseException as error:
        # Also when we were interrupted after file or lease had been made, before we heard of it or on closing the store
        if session is not None:
            discard_session(environment, session, error)
        raise
    if hooks:
        call_hook(environment, name, Hook.TRANSACTION_AFTER)
    return session


def open_lasting(environment: Environment, name: str, *, retry_timeout: int | None = None) -> Session:
    """Keep everybody from publishing, here and elsewhere, until the lease is broken.

    It outlives this release manager, which forgets the session: nobody publishes in it. One that is there already is
    left as it is.

    :param retry_timeout: as for `open_transaction`
    :raises InTransaction: when this release manager has a transaction open
    :raises LeaseHeld: when somebody else has
    """
    settings = environment.settings(name)
    require_no_transaction(environment, settings)
    with environment.open(name, settings) as repository:
        manifest = repository.manifest
        session = Session(
            id=str(uuid.uuid4()),
            repository=name,
            path="",
            revision=manifest.revision,
            root_hash=manifest.root_hash.hex,
            opened=int(time.time()),
            token=new_session(),
        )
        info = peek(repository.store)
        if info is None or not info.is_lasting:
            info = _acquire(repository.store, session, retry_timeout, is_lasting=True).info
        return dataclasses.replace(session, id=info.transaction, opened=info.acquired)


def current_session(environment: Environment, settings: ServerConfig, transaction_id: str | None = None) -> Session:
    """Return the open transaction of this release manager.

    :param transaction_id: refuse any transaction but this
    :raises NotInTransaction: when there is none, or another
    """
    name = settings.repository
    session = find_session(environment, settings)
    if session is None:
        raise NotInTransaction(
            f"{name} has no transaction open here", remedy=f"Open one: cvmfs_server transaction {name}"
        )
    if transaction_id not in (None, session.id):
        raise NotInTransaction(
            f"The open transaction of {name} is {session.id}, not {transaction_id}",
            remedy="Leave it to whoever opened it; wait until it has ended, and open your own",
        )
    return session


def find_session(environment: Environment, settings: ServerConfig) -> Session | None:
    """Return the open transaction of this release manager, or None."""
    return _read(_session_file(environment, settings), settings.repository)


def require_no_transaction(environment: Environment, settings: ServerConfig) -> None:
    """Refuse to go on while this release manager has a transaction open.

    :raises InTransaction: then
    """
    session = find_session(environment, settings)
    if session is not None:
        raise _in_transaction(session)


class SessionLease:
    """The lease of an open transaction, for who keeps it alive between the commands that use it.

    Storage is opened when it is first needed, and stays open: each renewal is one request.
    """

    def __init__(self, environment: Environment, session: Session) -> None:
        self._environment = environment
        self._session = session
        self._store: ObjectStore | None = None
        self._lease: Lease | None = None

    def renew(self) -> None:
        """Prolong the lease. After an error, the next time begins anew.

        :raises NotInTransaction, LeaseHeld: when it is lost
        """
        name = self._session.repository
        try:
            if self._store is None:
                self._store = self._environment.store(self._environment.settings(name))
            if self._lease is None:
                self._lease = Lease.resume(self._store, name, self._session.token)
            self._lease.renew()
        except PublisherError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections; the lease stays as it is."""
        if self._store is not None:
            self._store.close()
        self._store = self._lease = None


def union_of(environment: Environment, settings: ServerConfig, session: Session) -> Union | None:
    """Return where the transaction's repository can be edited; None if it is mountless."""
    if not session.mount_point:
        return None
    directory = environment.spool_dir(settings) / f"interactive-{session.id}"
    target = Path(session.mount_point)
    return Union(environment, settings, directory, target, lambda: _kept_session(environment, session))


@contextlib.contextmanager
def _kept_session(environment: Environment, session: Session) -> Iterator[None]:
    with contextlib.closing(SessionLease(environment, session)) as lease, kept_alive(lease):
        yield


def suspend(environment: Environment, session: Session) -> None:
    """Unmount an interactive transaction, and keep it with everything that was written in it, to be mounted again.

    Its lease stays as it is: it ends by itself, and is still good if nobody has taken it by the time of the publish.
    """
    union = union_of(environment, environment.settings(session.repository), session)
    if union is not None:
        union.detach()


def close_session(environment: Environment, settings: ServerConfig, session: Session, lease: Lease) -> list[str]:
    """End a transaction that was published: unmount its repository, give the lease back and forget the session.

    :returns: warnings of what could not be ended
    """
    union = union_of(environment, settings, session)
    warnings = _close_by_force(union) if union is not None else []
    warnings += _release(lease)
    _forget(environment, settings, session)
    return warnings


def discard_session(environment: Environment, session: Session, error: BaseException | None = None) -> None:
    """End a transaction that has failed, as far as that is possible.

    :param error: why, if it is known; where storage does not answer, it is not bothered again
    """
    settings = environment.settings(session.repository)
    union = union_of(environment, settings, session)
    if union is not None:
        _close_by_force(union)
    _forget(environment, settings, session)
    if isinstance(error, EndpointUnreachable):
        return
    with contextlib.suppress(PublisherError), contextlib.closing(environment.store(settings)) as store:
        Lease.resume(store, session.repository, session.token).release()


def abort(environment: Environment, name: str, *, transaction_id: str | None = None, force: bool = False) -> list[str]:
    """End a transaction without publishing anything.

    :param transaction_id: abort no other transaction than this
    :param force: break the lease if somebody else, or a session that is lost, has it; and unmount the repository even
        if something is using it
    :returns: warnings of what could not be ended, or ends later
    :raises NotInTransaction: when there is nothing to abort
    :raises HookFailed: when a hook fails; after the last one the transaction has ended all the same
    :raises UnionInUse: when something is using the mounted repository
    """
    settings = environment.settings(name)
    with contextlib.closing(environment.store(settings)) as store:
        session = find_session(environment, settings)
        if session is None and transaction_id is None and force and (broken := break_lease(store)) is not None:
            if broken.is_released:
                return []
            return [
                f"{name} can be published to from {utc(broken.free_from)} on, in "
                f"{broken.free_from - int(store.now())} seconds. The lease was not that of a transaction; until then, "
                "storage may carry out what a garbage collection was deleting"
            ]
        session = current_session(environment, settings, transaction_id)
        call_hook(environment, name, Hook.ABORT_BEFORE)
        union = union_of(environment, settings, session)
        warnings = union.close(force=force) if union is not None else []
        # It may have ended already, or gone to somebody else, which is none of our business any more.
        with contextlib.suppress(NotInTransaction, LeaseHeld):
            Lease.resume(store, name, session.token).release()
        _forget(environment, settings, session)
    call_hook(environment, name, Hook.ABORT_AFTER)
    return warnings


@contextlib.contextmanager
def exclusive(
    environment: Environment, settings: ServerConfig, store: ObjectStore, keeper: Keeper | None = None
) -> Iterator[Lease]:
    """Hold the lease for an operation that needs no transaction of its user's, such as editing tags.

    :param keeper: is told when the lease is lost
    :raises InTransaction: when this release manager has a transaction open
    :raises LeaseHeld: when somebody else has
    """
    require_no_transaction(environment, settings)
    with leased(store, settings.repository, keeper) as lease:
        yield lease


@contextlib.contextmanager
def leased(store: ObjectStore, name: str, keeper: Keeper | None = None) -> Iterator[Lease]:
    """Hold the lease of a repository that need not be this release manager's own.

    :param keeper: is told when the lease is lost
    :raises LeaseHeld: when somebody has it
    """
    lease = Lease.acquire(
        store,
        name,
        session=new_session(),
        holder=_holder(),
        transaction=str(uuid.uuid4()),
        base_revision=0,
    )
    with released_on_error(lease), kept_alive(lease, keeper):
        yield lease
    for warning in _release(lease):
        print(warning, file=sys.stderr)


@contextlib.contextmanager
def open_exclusively(
    environment: Environment, settings: ServerConfig, *, unlisted: bool = False, keeper: Keeper | None = None
) -> Iterator[tuple[Repository, Lease]]:
    """Open a repository under the lease, so that it stays as it was read.

    :param unlisted: as `Repository.open`
    :param keeper: is told when the lease is lost
    :raises InTransaction, LeaseHeld: as `exclusive`
    :raises PublisherError: as `Environment.open`
    """
    with (
        contextlib.closing(environment.store(settings)) as store,
        exclusive(environment, settings, store, keeper) as lease,
    ):
        yield environment.open_in(store, settings, unlisted=unlisted), lease


@contextlib.contextmanager
def released_on_error(lease: Lease) -> Iterator[None]:
    """Give a lease back if the block fails; the block's error is the one to be seen."""
    try:
        yield
    except EndpointUnreachable:
        raise  # who waited for storage in vain need not wait again
    except BaseException:
        _release(lease)
        raise


def _release(lease: Lease) -> list[str]:
    """Give a lease back, and return a warning if that fails: what was done under it is done."""
    try:
        lease.release()
    except StorageError as error:
        minutes = (LIFETIME + CLOCK_MARGIN) // 60
        return [f"The lease was not given back, and ends by itself within {minutes} minutes: {error}"]
    return []


class Keeper:
    """Tells whoever works under a lease that it is lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._call_off: Callable[[BaseException], None] | None = None
        self._error: BaseException | None = None

    def on_loss(self, call_off: Callable[[BaseException], None]) -> None:
        """Call this, from another thread, once the lease is lost for good; at once if it is."""
        with self._lock:
            self._call_off = call_off
            if self._error is not None:
                call_off(self._error)

    def lost(self, error: BaseException) -> None:
        """Say that the lease is lost."""
        with self._lock:
            self._error = error
            if self._call_off is not None:
                self._call_off(error)


@contextlib.contextmanager
def kept_alive(lease: Lease | SessionLease, keeper: Keeper | None = None) -> Iterator[Keeper]:
    """Renew a lease in the background for as long as the block takes."""
    leaving = threading.Event()
    keeper = keeper or Keeper()

    def run() -> None:
        while not leaving.wait(_RENEW_EVERY):
            try:
                lease.renew()
            except (LeaseHeld, NotInTransaction) as error:
                if not leaving.is_set():
                    keeper.lost(error)
                return
            except PublisherError as error:
                # Not fatal here: who commits renews once more before, and stops if that fails.
                if not leaving.is_set():
                    print(f"The lease was not renewed: {error}", file=sys.stderr)

    thread = threading.Thread(target=run, name="lease", daemon=True)
    thread.start()
    try:
        yield keeper
    finally:
        leaving.set()
        # Where storage does not answer, a renewal may take minutes. Nobody needs it any more, and a late one cannot
        # bring back a lease that was given back.
        thread.join(_PATIENCE)


def root_of(session: Session) -> ContentHash:
    """Return the root catalog of what the transaction changes."""
    return ContentHash.parse(session.begins_with).with_suffix(HashSuffix.CATALOG)


def _begin_with_newest(
    environment: Environment,
    settings: ServerConfig,
    repository: Repository,
    session: Session,
    file: Path,
    template: Template | None,
) -> Session:
    """Note the revision that is there now that nobody else can publish; another may have come while we waited."""
    repository = repository.reread()
    manifest = repository.manifest
    session = dataclasses.replace(session, revision=manifest.revision, root_hash=manifest.root_hash.hex)
    if template is not None:
        root_hash = root_of(session)
        with environment.scratch(settings) as scratch:
            copied = clone(repository, root_hash, template, parse(session.path), scratch)
        session = dataclasses.replace(
            session,
            clone=copied.root_hash.hex,
            cloned=os.fsdecode(template.target),
            cloned_entries=copied.entries,
        )
    _write(file, session, exclusive=False)
    union = union_of(environment, settings, session)
    if union is not None:
        kind = union.create(repository, root_of(session), claimed=session.claimed)
        session = dataclasses.replace(session, union=kind.name)
        _write(file, session, exclusive=False)
    return session


def _close_by_force(union: Union) -> list[str]:
    try:
        return union.close(force=True)
    except (OSError, PublisherError) as error:
        return [f"{union.target} was not unmounted: {error}"]


def _acquire(store: ObjectStore, session: Session, retry_timeout: int | None, *, is_lasting: bool = False) -> Lease:
    deadline = math.inf if retry_timeout == 0 else time.monotonic() + (retry_timeout or 0)
    while True:
        try:
            return Lease.acquire(
                store,
                session.repository,
                session=session.token,
                holder=_holder(),
                transaction=session.id,
                base_revision=session.revision,
                path=session.path,
                is_lasting=is_lasting,
            )
        except LeaseHeld:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
        time.sleep(min(_RETRY_EVERY, left))


def _require_directory(
    environment: Environment, settings: ServerConfig, repository: Repository, root_hash: ContentHash, path: bytes
) -> None:
    with (
        environment.scratch(settings) as scratch,
        CatalogTree(repository.store, root_hash, scratch) as tree,
    ):
        entry = tree.entry(path)
    if entry is None:
        raise PathNotFound(f"{repository.name} has no /{display(path)}", remedy="Open the transaction higher up")
    if not entry.is_directory:
        raise NotADirectory(
            f"/{display(path)} in {repository.name} is no directory", remedy="Open the transaction higher up"
        )


def _holder() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _session_file(environment: Environment, settings: ServerConfig) -> Path:
    return environment.spool_dir(settings) / _SESSION_FILE


def _forget(environment: Environment, settings: ServerConfig, session: Session) -> None:
    """Remove the session file, unless another session has its place: this one may have been aborted meanwhile."""
    try:
        current = find_session(environment, settings)
    except ConfigurationError:  # damaged, so of no use to anybody
        current = session
    file = _session_file(environment, settings)
    if current is not None and current.id == session.id:
        file.unlink(missing_ok=True)
    _temporary(file, session).unlink(missing_ok=True)  # of a write that was interrupted


def _read(file: Path, name: str) -> Session | None:
    try:
        return Session(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, OSError) as error:
        raise ConfigurationError(
            f"The session file {file} cannot be used ({error})",
            remedy=f"End the transaction: remove that file, then cvmfs_server abort -f {name}",
        ) from None


def _write(file: Path, session: Session, *, exclusive: bool) -> None:
    data = json.dumps(dataclasses.asdict(session)).encode()
    temporary = _temporary(file, session)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
        if exclusive:
            os.link(temporary, file)
        else:
            os.replace(temporary, file)
    except FileExistsError:
        # It may have ended since; whose it was makes no difference to who comes next.
        raise _in_transaction(_read(file, session.repository) or session) from None
    except OSError as error:
        raise PublisherError(
            f"Cannot write the session file {file}: {error.strerror}", remedy="Make room there, or set CVMFS_SPOOL_DIR"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(file: Path, session: Session) -> Path:
    """Return where a session file is while it is being written."""
    return file.with_name(f".{file.name}.{session.id}")


def _in_transaction(session: Session) -> InTransaction:
    return InTransaction(
        f"{session.repository} has the transaction {session.id} open here",
        remedy=f"Publish it, or drop it: cvmfs_server abort {session.repository}",
    )
