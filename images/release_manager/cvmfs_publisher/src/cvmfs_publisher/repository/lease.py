# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: who has the transaction on a repository open, as an object in the repository's storage.

Times in it are by the store's clock, so those of its users' hosts do not matter.

It is taken and given back by conditional writes only, so two holders cannot both believe that it is theirs. An ended
lease stays as an object that says so, since there is no conditional DELETE: Ceph's RGW ignores ``If-Match`` there.

The lease keeps publishers out of each other's way. What keeps the repository whole, if ever a holder sleeps through
the end of its lease, is the conditional write of the manifest.

Who breaks a transaction's lease may have it at once. Any other may be that of a garbage collection, whose deletions
know no conditions, and may be under way in the store. Breaking such a lease keeps its holder from beginning with more,
and changes nothing about when others may take it: that is when the store can have accepted none for a while.

A lasting lease is nobody's work: it keeps all publishers out until it is broken, whatever becomes of the host that took
it. Its end is so far away that no version of this publisher takes it for over.

The object is as public as the repository. So it has only the SHA-256 of the session token, which proves whose it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..errors import CorruptObject, LeaseHeld, NotInTransaction, ObjectNotFound, PreconditionFailed
from ..storage import Permit

if TYPE_CHECKING:
    from ..storage import ObjectStore, Version

LEASE_KEY = ".cvmfs_publishing_lease.json"
LIFETIME = 180
"""Seconds that a lease lives without being renewed."""
CLOCK_MARGIN = 60
"""Seconds after its end from which on others may take a lease: for clocks that differ, and for requests that the store
has taken in time, but is slow to carry out."""

LASTING = 4102444800
"""The end of lasting leases: 2100-01-01."""

_NOBODY = ""
"""The session of a lease that was broken before others may take it: no token's digest."""

_VERSION = 1
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseInfo:
    """The lease as everybody can read it. Times are in seconds since 1970.

    :param holder: who has it, for people
    :param transaction: the transaction's public id
    :param path: the part of the repository that it is for; empty for all
    :param base_revision: the revision that the transaction began with; 0 of what is none, and may delete objects
    :param session: SHA-256 of the holder's session token; empty when the lease was broken, and is not over yet
    :param is_released: whether the holder has given it back
    """

    holder: str
    transaction: str
    path: str
    base_revision: int
    acquired: int
    expires: int
    session: str
    is_released: bool = False

    def serialise(self) -> bytes:
        """Return the object's content."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()

    @classmethod
    def parse(cls, data: bytes) -> LeaseInfo:
        """Read the object's content. What it has besides, as of later versions, is of no concern.

        :raises CorruptObject: when it is no lease
        """
        try:
            document = json.loads(data)
            if document.pop("version") != _VERSION:
                raise ValueError("its version is not known")
            if not all(isinstance(document[key], int) for key in ("acquired", "expires", "base_revision")):
                raise ValueError("its times or its revision are no numbers")
            if not all(isinstance(document[key], str) for key in ("holder", "transaction", "path", "session")):
                raise ValueError("its texts are no texts")
            known = {field.name for field in fields(cls)}
            return cls(**{key: value for key, value in document.items() if key in known})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptObject(
                f"{LEASE_KEY} is no lease ({error})", remedy="If nobody is publishing, delete that object"
            ) from None

    @property
    def is_broken(self) -> bool:
        """Whether it is nobody's any more, although others have to wait for its end."""
        return self.session == _NOBODY and not self.is_released

    @property
    def is_lasting(self) -> bool:
        """Whether it keeps everybody from publishing until it is broken."""
        return self.expires >= LASTING and not self.is_released

    @property
    def free_from(self) -> int:
        """The moment from which on somebody else may take the lease, unless it is renewed or released."""
        return self.expires + CLOCK_MARGIN

    def is_of(self, session: str) -> bool:
        """Say whether a session token is that of the lease's holder."""
        return hmac.compare_digest(self.session.encode(errors="replace"), _digest(session).encode())

    def is_over(self, now: float) -> bool:
        """Say whether somebody else may take the lease."""
        return self.is_released or now > self.free_from

    def held_error(self, repository: str) -> LeaseHeld:
        """Return the error for somebody who cannot have the lease, or has it no more."""
        if self.is_broken:
            return LeaseHeld(
                f"The lease on {repository} was broken, which {self.holder} took at {utc(self.acquired)}. Until "
                f"{utc(self.free_from)}, storage may carry out what was being deleted",
                remedy="Wait until then",
            )
        if self.is_lasting:
            return LeaseHeld(
                f"{repository} is not published to any more: {self.holder} has a lasting transaction open since "
                f"{utc(self.acquired)}, as when a repository was moved",
                remedy=f"Publish where it is now; to go on here, abort it: cvmfs_server abort -f {repository}",
            )
        return LeaseHeld(
            f"{repository} has a transaction open: {self.holder} began it at {utc(self.acquired)}, "
            f"and its lease lasts until {utc(self.expires)} unless it is renewed",
            remedy=f"Wait for its end; if its holder is gone, break it: cvmfs_server abort -f {repository}",
        )


class Lease:
    """A lease that this process holds.

    :param session: the holder's session token. Secret
    :param clock: tells the time instead of the store; for tests
    """

    def __init__(
        self,
        store: ObjectStore,
        repository: str,
        info: LeaseInfo,
        version: Version,
        session: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._repository = repository
        self._version = version
        self._clock = clock or store.now
        self._lock = threading.Lock()  # it is renewed in the background as well
        self._lapsing = False
        self.info = info
        self.session = session

    @classmethod
    def acquire(
        cls,
        store: ObjectStore,
        repository: str,
        *,
        session: str,
        holder: str,
        transaction: str,
        base_revision: int,
        path: str = "",
        is_lasting: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> Lease:
        """Take the lease.

        :param session: a secret of `new_session`; who knows it can go on with the lease
        :param holder: who takes it, for the messages that others get
        :param is_lasting: until it is broken. It is not to be renewed
        :raises LeaseHeld: when somebody has it
        """
        tell = clock or store.now
        current: LeaseInfo | None
        for _ in range(_ATTEMPTS):
            try:
                current, version = _read(store)
            except ObjectNotFound:
                current = None
            now = int(tell())  # by now the store has answered, and so its clock is known
            info = LeaseInfo(
                holder=holder,
                transaction=transaction,
                path=path,
                base_revision=base_revision,
                acquired=now,
                expires=LASTING if is_lasting else now + LIFETIME,
                session=_digest(session),
            )
            if current is None:
                try:
                    version = store.put_if_absent(LEASE_KEY, info.serialise())
                except PreconditionFailed:
                    continue  # somebody was faster, or our own write was answered too late
                return cls(store, repository, info, version, session, clock)
            if current.session == info.session and not current.is_released:
                return cls(store, repository, current, version, session, clock)
            if not current.is_over(tell()):
                raise current.held_error(repository)
            try:
                version = store.put_if_match(LEASE_KEY, info.serialise(), version)
            except PreconditionFailed:
                continue
            return cls(store, repository, info, version, session, clock)
        raise LeaseHeld(
            f"Others keep taking the lease on {repository}", remedy="Try again when fewer publishers want it"
        )

    @classmethod
    def resume(
        cls, store: ObjectStore, repository: str, session: str, clock: Callable[[], float] | None = None
    ) -> Lease:
        """Go on with a lease that another process took. An expired one is still good if nobody took it since.

        :raises NotInTransaction: when it was released
        :raises LeaseHeld: when somebody else has taken it
        """
        try:
            info, version = _read(store)
        except ObjectNotFound:
            raise _not_open(repository) from None
        lease = cls(store, repository, info, version, session, clock)
        lease._require_own(info, _digest(session))
        return lease

    def renew(self) -> None:
        """Let the lease begin its life anew; done before anything that must not happen without it.

        :raises NotInTransaction: when it was released or broken
        :raises LeaseHeld: when somebody else has taken it
        """
        if not self._lapsing:
            self._replace(replace(self.info, expires=int(self._clock()) + LIFETIME))

    def release(self) -> None:
        """Give the lease back. Nothing happens when it is not ours any more."""
        if self._lapsing:
            return
        try:
            self._replace(replace(self.info, expires=int(self._clock()), is_released=True))
        except (LeaseHeld, NotInTransaction):
            return

    def lapse(self) -> None:
        """Neither renew the lease nor give it back from now on; it ends by itself.

        For who does not know whether the last of what was done under it is over.
        """
        self._lapsing = True

    def permit(self) -> Permit:
        """Return what lets objects be deleted until the lease ends, as it was last renewed."""
        with self._lock:
            return Permit(LEASE_KEY, self._version, self.info.expires)

    def _replace(self, info: LeaseInfo) -> None:
        with self._lock:
            self._replace_alone(info)

    def _replace_alone(self, info: LeaseInfo) -> None:
        if self.info.is_released:
            raise _not_open(self._repository)
        for _ in range(_ATTEMPTS):
            try:
                self._version = self._store.put_if_match(LEASE_KEY, info.serialise(), self._version)
            except PreconditionFailed:
                try:
                    current, version = _read(self._store)
                except ObjectNotFound:
                    raise _not_open(self._repository) from None
                self._require_own(current, info.session)
                self._version = version  # another of the holder's processes renewed it
            else:
                self.info = info
                return
        raise _not_open(self._repository)

    def _require_own(self, current: LeaseInfo, session: str) -> None:
        if current.session != session:
            if current.is_over(self._clock()):
                raise _not_open(self._repository)
            raise current.held_error(self._repository)
        if current.is_released:
            raise _not_open(self._repository)


def new_session() -> str:
    """Return a session token. Secret."""
    return secrets.token_urlsafe(32)


def peek(store: ObjectStore) -> LeaseInfo | None:
    """Return the lease as it is, or None if there never was one."""
    try:
        return _read(store)[0]
    except ObjectNotFound:
        return None


def break_lease(store: ObjectStore, clock: Callable[[], float] | None = None) -> LeaseInfo | None:
    """Take the lease from whoever has it, and return what has become of it; None when nobody had it.

    Its holder finds out when it next renews the lease, which it does before it commits. That of a transaction is over
    then; for another one's end, all have to wait.
    """
    for _ in range(_ATTEMPTS):
        try:
            info, version = _read(store)
        except ObjectNotFound:
            return None
        if info.is_released:
            return None
        now = int((clock or store.now)())
        if info.base_revision or info.is_over(now):
            broken = replace(info, expires=now, is_released=True)
        else:
            broken = replace(info, session=_NOBODY)
        try:
            store.put_if_match(LEASE_KEY, broken.serialise(), version)
        except PreconditionFailed:
            continue
        return broken
    raise LeaseHeld("The lease changes faster than it can be broken", remedy="Try again")


def _read(store: ObjectStore) -> tuple[LeaseInfo, Version]:
    data, version = store.get_versioned(LEASE_KEY)
    return LeaseInfo.parse(data), version


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()


def _not_open(repository: str) -> NotInTransaction:
    return NotInTransaction(
        f"The transaction on {repository} is not open any more: its lease has ended",
        remedy=f"Open a new one: cvmfs_server transaction {repository}",
    )


def utc(seconds: int) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
