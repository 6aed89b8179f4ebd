# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets one thread call off what others are waiting for."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Cancellation:
    """A flag that, once set, stays set, and on being set interrupts what is registered with it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._interrupts: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Interrupt everything that is registered, now and from now on."""
        with self._lock:
            self._event.set()
            interrupts = list(self._interrupts)
        for interrupt in interrupts:
            interrupt()

    def is_set(self) -> bool:
        """Say whether somebody cancelled."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but no longer than until somebody cancels. Return whether somebody has."""
        return self._event.wait(seconds)

    @contextlib.contextmanager
    def interrupting(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """Call `interrupt`, from another thread, when somebody cancels during the ``with`` block."""
        with self._lock:
            self._interrupts.add(interrupt)
            cancelled = self._event.is_set()
        if cancelled:
            interrupt()
        try:
            yield
        finally:
            with self._lock:
                self._interrupts.discard(interrupt)
