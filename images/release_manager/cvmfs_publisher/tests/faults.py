# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that fails on demand, for tests of everything that has to survive it."""

from __future__ import annotations

import fnmatch
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from cvmfs_publisher.errors import StorageError
    from cvmfs_publisher.storage import Bytes, Cancellation, ObjectInfo, ObjectStore, Permit, Traffic, Version

Operation = Literal["get", "exists", "size", "put", "put_if_absent", "put_if_match", "delete", "delete_many", "list"]
Result = TypeVar("Result")

EXIT_CODE = 86
"""Of a process that a fault has killed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at some operations.

    Each fault counts the operations that `operations` and `keys` select. It strikes the `nth` of them, from 1 on, and
    the `times - 1` that follow.

    :param operations: names of operations; empty selects all of them
    :param keys: shell pattern of keys
    :param delay: seconds to wait before anything else
    :param die: end the process, as if it were killed, ``before`` or ``after`` the operation
    :param corrupt: flip a bit of what is written or read
    :param error: what is raised instead of doing the operation
    :param done: do the operation all the same before raising `error`, as when an answer is lost
    """

    nth: int = 1
    operations: tuple[Operation, ...] = ()
    keys: str = "*"
    times: int = 1
    delay: float = 0.0
    die: Literal["before", "after"] | None = None
    corrupt: bool = False
    error: StorageError | None = None
    done: bool = False


class FaultyStore:
    """Another store, with faults.

    :param inner: does the work
    :param plan: what goes wrong
    :ivar operations: names and keys of all operations so far
    """

    def __init__(self, inner: ObjectStore, plan: Sequence[Fault] = ()) -> None:
        self._inner = inner
        self._plan = tuple(plan)
        self._counts = [0] * len(self._plan)
        self._lock = threading.Lock()
        self.operations: list[tuple[Operation, str]] = []

    @property
    def concurrency(self) -> int:
        return self._inner.concurrency

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    def get(self, key: str) -> bytes:
        return self._do("get", key, lambda damage: damage(self._inner.get(key)))

    def get_in_parts(self, key: str, part_size: int) -> Iterator[bytes]:
        return self._do("get", key, lambda damage: map(damage, self._inner.get_in_parts(key, part_size)))

    def get_versioned(self, key: str) -> tuple[bytes, Version]:
        def read(damage: Callable[[Bytes], bytes]) -> tuple[bytes, Version]:
            data, version = self._inner.get_versioned(key)
            return damage(data), version

        return self._do("get", key, read)

    def exists(self, key: str) -> bool:
        return self._do("exists", key, lambda _: self._inner.exists(key))

    def size(self, key: str) -> int | None:
        return self._do("size", key, lambda _: self._inner.size(key))

    def put(
        self,
        key: str,
        data: Bytes,
        *,
        cache_control: str | None = None,
        content_type: str | None = None,
        cancel: Cancellation | None = None,
    ) -> Version:
        return self._do(
            "put",
            key,
            lambda damage: self._inner.put(
                key, damage(data), cache_control=cache_control, content_type=content_type, cancel=cancel
            ),
        )

    def put_if_absent(self, key: str, data: Bytes) -> Version:
        return self._do("put_if_absent", key, lambda damage: self._inner.put_if_absent(key, damage(data)))

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        return self._do("put_if_match", key, lambda damage: self._inner.put_if_match(key, damage(data), version))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda _: self._inner.delete(key))

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        return self._do("delete_many", keys[0], lambda _: self._inner.delete_many(keys, permit, cancel))

    def now(self) -> float:
        return self._inner.now()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._do("list", prefix, lambda _: self._inner.list(prefix))

    def describe(self) -> str:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, operation: Operation, key: str, action: Callable[[Callable[[Bytes], bytes]], Result]) -> Result:
        faults = self._striking(operation, key)
        for fault in faults:
            time.sleep(fault.delay)
            if fault.die == "before":
                os._exit(EXIT_CODE)
            if fault.error is not None and not fault.done:
                raise fault.error
        result = action(_flip if any(fault.corrupt for fault in faults) else bytes)
        for fault in faults:
            if fault.die == "after":
                os._exit(EXIT_CODE)
            if fault.error is not None:
                raise fault.error
        return result

    def _striking(self, operation: Operation, key: str) -> tuple[Fault, ...]:
        """Count the operation, and return the faults that strike it."""
        striking = []
        with self._lock:
            self.operations.append((operation, key))
            for index, fault in enumerate(self._plan):
                if fault.operations and operation not in fault.operations:
                    continue
                if not fnmatch.fnmatchcase(key, fault.keys):
                    continue
                self._counts[index] += 1
                if fault.nth <= self._counts[index] < fault.nth + fault.times:
                    striking.append(fault)
        return tuple(striking)


def _flip(data: Bytes) -> bytes:
    damaged = bytearray(data or b"\0")
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)
