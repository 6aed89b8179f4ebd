# SPDX-License-Identifier: GPL-3.0-or-later
"""Deletions, many at a time, that the store refuses once the lease that they are done under has ended."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from ..errors import PreconditionFailed, StorageError, UnansweredDeletion
from ..repository import Lease
from ..repository.lease import CLOCK_MARGIN, LIFETIME
from ..storage import Cancellation, ObjectStore

UNCERTAIN = (
    "Some deletions were not answered at first. So the lease was not given back, and ends by itself within "
    f"{(LIFETIME + CLOCK_MARGIN) // 60} minutes"
)
"""The warning for a sweeper that is not certain."""

_BATCH = 250  # objects per deletion; the store should be done with them well before others may take the lease
_MOST_WORKERS = 8  # with so many, Ceph deletes fastest


class Sweeper:
    """Deletes objects, many at a time, for as long as a lease lasts.

    Lets the lease lapse unless it is certain that no deletion is under way any more.

    :param count_bytes: ask for the size of each data object first
    :ivar bytes: of the data objects that are gone, if they are counted
    """

    def __init__(self, store: ObjectStore, lease: Lease, *, count_bytes: bool = False) -> None:
        self._store = store
        self._count_bytes = count_bytes
        self._lock = threading.Lock()
        self._at_rest = threading.Condition(self._lock)
        self._under_way = 0
        self._is_over = False
        self.bytes = 0
        self._lease = lease
        self._cancel = Cancellation()
        self._workers = min(store.concurrency, _MOST_WORKERS)
        self._room = threading.BoundedSemaphore(2 * self._workers)
        self._batch: list[str] = []
        self._running: list[Future[None]] = []
        self._error: BaseException | None = None
        self.is_certain = True

    def __enter__(self) -> Sweeper:
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        # What is under way takes seconds, unless storage is in trouble. Who interrupts does not wait.
        if isinstance(error, StorageError) or not isinstance(error, Exception | None):
            self._cancel.set()
        try:
            self._pool.shutdown(cancel_futures=True)
            # The pool knows no thread during whose start it was interrupted
            with self._lock:
                self._is_over = True
                while self._under_way:
                    self._at_rest.wait()
        except BaseException:  # who interrupts again
            self.is_certain = False
            raise
        finally:
            if not self.is_certain:
                self._lease.lapse()

    def delete(self, key: str) -> None:
        """Delete an object soon.

        :raises StorageError: when an earlier deletion failed
        """
        self._batch.append(key)
        if len(self._batch) >= _BATCH:
            self._send()

    def wait(self) -> None:
        """Return when all objects so far are gone.

        :raises StorageError: when that failed
        """
        self._send()
        for future in self._running:
            future.result()
        self._running.clear()

    def call_off(self, error: BaseException) -> None:
        """Break off what is under way, and delete no more; who wants that gets `error`."""
        self._error = error
        self._cancel.set()

    def _send(self) -> None:
        if not self._batch:
            return
        self._room.acquire()
        for future in [future for future in self._running if future.done()]:
            future.result()
            self._running.remove(future)
        batch, self._batch = self._batch, []
        self._running.append(self._pool.submit(self._delete, batch))

    def _delete(self, keys: list[str]) -> None:
        with self._lock:
            if self._is_over:
                return
            self._under_way += 1
        try:
            self._delete_now(keys)
        finally:
            with self._lock:
                self._under_way -= 1
                self._at_rest.notify_all()

    def _delete_now(self, keys: list[str]) -> None:
        try:
            if self._error is not None:
                raise self._error
            size = sum(self._store.size(key) or 0 for key in keys if key[-1] not in "CHMX") if self._count_bytes else 0
            while True:
                permit = self._lease.permit()
                try:
                    if not self._store.delete_many(keys, permit, self._cancel):
                        self.is_certain = False
                    with self._lock:
                        self.bytes += size
                    return
                except PreconditionFailed as error:
                    if isinstance(error, UnansweredDeletion):
                        self.is_certain = False
                    # Its end may have come before it was renewed in the background. If it is lost, this says so.
                    self._lease.renew()
        except BaseException as error:
            self.is_certain = False
            self._cancel.set()
            if self._error not in (None, error):
                raise self._error from error
            raise
        finally:
            self._room.release()
