# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments whose stores do something else than they should, at a moment that a test chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from faults import Fault, FaultyStore

from cvmfs_publisher.operations.environment import Environment
from cvmfs_publisher.repository import ServerConfig
from cvmfs_publisher.storage import Cancellation, ObjectStore, Permit, Version
from cvmfs_publisher.storage.store import Bytes
from operations.managers import ReleaseManager


class FaultyEnvironment(Environment):
    """A release manager's environment with one store, which has faults. Faults count over all of its uses."""

    def __init__(self, manager: ReleaseManager, plan: Sequence[Fault] = ()) -> None:
        super().__init__(manager.config_dir)
        inner = manager.environment.store(manager.environment.settings(manager.name))
        self.faulty = FaultyStore(inner, plan)

    def store(self, settings: ServerConfig) -> ObjectStore:
        del settings
        return _Shared(self.faulty)


class _Shared(FaultyStore):
    """Uses a store that others go on using."""

    def close(self) -> None:
        """Leave it open."""


class MeanwhileEnvironment(Environment):
    """A release manager's environment in which something happens once, just before an object is written or deleted.

    :param key: the beginning of the object's key
    :param nth: before which of them, from 1 on
    :param plan: faults that the stores have besides
    :ivar written: the keys so far that begin so
    """

    def __init__(
        self, manager: ReleaseManager, key: str, happens: Callable[[], object], nth: int = 1, plan: Sequence[Fault] = ()
    ) -> None:
        super().__init__(manager.config_dir)
        self._key = key
        self._happens = happens
        self._nth = nth
        self._plan = plan
        self._lock = threading.Lock()
        self.written: list[str] = []

    def store(self, settings: ServerConfig) -> ObjectStore:
        return _Meanwhile(super().store(settings), self._plan, self.before_write)

    def before_write(self, key: str) -> None:
        """Let it happen."""
        if key.startswith(self._key):
            with self._lock:
                self.written.append(key)
                is_time = len(self.written) == self._nth
            if is_time:
                self._happens()


class _Meanwhile(FaultyStore):
    def __init__(self, inner: ObjectStore, plan: Sequence[Fault], before_write: Callable[[str], None]) -> None:
        super().__init__(inner, plan)
        self._before_write = before_write

    def put(self, key: str, data: Bytes, **options: object) -> Version:
        self._before_write(key)
        return super().put(key, data, **options)  # type: ignore[arg-type]

    def put_if_match(self, key: str, data: Bytes, version: Version) -> Version:
        self._before_write(key)
        return super().put_if_match(key, data, version)

    def delete(self, key: str) -> None:
        self._before_write(f"delete {key}")
        super().delete(key)

    def delete_many(self, keys: Sequence[str], permit: Permit, cancel: Cancellation | None = None) -> bool:
        self._before_write(f"delete {keys[0]}")
        return super().delete_many(keys, permit, cancel)
