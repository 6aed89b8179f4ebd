# SPDX-License-Identifier: GPL-3.0-or-later
"""The one interface that all object stores have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from .cancellation import Cancellation

Bytes: TypeAlias = bytes | bytearray | memoryview

Version = NewType("Version", str)
"""Names one state of an object, for conditional writes. Opaque: its store alone understands it."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One line of a listing; `size` is in bytes, `last_modified` is aware of its time zone."""

    key: str
    size: int
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a store has been asked so far over the network.

    :param retries: requests that were repeated
    :param seconds: that requests took in all, with their repetitions; parallel ones add up
    """

    requests: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Permit:
    """Lets objects be deleted for as long as nobody else can have taken a lease.

    Deletion knows no conditions (Ceph's RGW ignores ``If-Match`` there). So who deletes, is put to sleep, and wakes up
    when the lease has gone to a publisher, must be stopped by the store itself: in a directory by the lock that guards
    the lease, in S3 by the end of the requests' signatures.

    :param key: the lease's object
    :param version: the lease as it was last written
    :param expires: end of the lease, in seconds since 1970 by the store's clock
    """

    key: str
    version: Version
    expires: float


class ObjectStore(Protocol):
    """Where one repository lives.

    Keys are relative to the repository's root, e.g. ``.cvmfspublished`` or ``data/ab/cdef…C``. All methods
    block, may be called from any thread, retry what is worth it, and raise subclasses of `StorageError`.
    An object is always either wholly written or not at all.
    """

    @property
    def concurrency(self) -> int:
        """The number of requests at a time that serve large numbers of objects best."""
        ...

    @property
    def traffic(self) -> Traffic:
        """What the store has been asked so far."""
        ...

    def get(self, key: str) -> bytes:
        """Return an object's bytes.

        :raises ObjectNotFound: when there is none
        """
        ...

    def get_in_parts(self, key: str, part_size: int) -> Iterator[bytes]:
        """Yield an object's bytes piece by piece.

        Each piece may be a request of its own. What is read by plain HTTP may be of several objects when one was
        replaced meanwhile; those that are named by their content never are.

        :param part_size: bytes of a piece, unless the store knows better
        :raises ObjectNotFound: when there is none
        :raises PreconditionFailed: when it was replaced meanwhile
        """
        ...

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return an object's bytes, and the version that they are.

        :raises ObjectNotFound: when there is none
        """
        ...

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        ...

    def size(self, key: str) -> int | None:
        """Return how many bytes an object has; None when there is none."""
        ...

    def put(
        self,
        key: str,
        data: Bytes,
        *,
        cache_control: str | None = None,
        content_type: str | None = None,
        cancel: Cancellation | None = None,
    ) -> Version:
        """Write an object, whether or not there is one already.

        :param cache_control: HTTP header for readers; by default what CernVM-FS sets for this key
        :param content_type: HTTP header for readers; by default what CernVM-FS sets for this key
        :param cancel: once set, the attempt is broken off and not repeated
        """
        ...

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        """Create an object.

        :raises PreconditionFailed: when there is one already
        """
        ...

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        """Replace an object.

        :raises PreconditionFailed: when the object is not, or no longer, the given version
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; there may be none."""
        ...

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        """Remove objects, at most a thousand; there may be none.

        :param cancel: once set, the attempt is broken off and not repeated
        :returns: whether nothing of it can still be under way. After a request without an answer that is not known; it
            is over some time after the permit's end
        :raises PreconditionFailed: when the permit has ended, or the lease was renewed or taken since; some of the
            objects may be gone
        :raises UnansweredDeletion: when besides something of it can still be under way
        """
        ...

    def now(self) -> float:
        """Return the seconds since 1970 by the store's own clock, which all of its users share."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys start with `prefix`, in no particular order."""
        ...

    def describe(self) -> str:
        """Return where the store is, for messages. Never contains credentials."""
        ...

    def close(self) -> None:
        """Release connections. Later calls fail."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def headers_for(key: str) -> tuple[str, str]:
    """Return the Cache-Control and Content-Type of an object for its HTTP readers.

    The values are CernVM-FS's own: three days for what is named by its content, a minute for what is replaced
    in place.
    """
    if key.startswith("data/"):
        return "max-age=259200", "application/octet-stream"
    if key.endswith(".json"):
        return "max-age=61", "application/json"
    if key.endswith(".html"):
        return "max-age=61", "text/html"
    return "max-age=61", "application/x-cvmfs"
