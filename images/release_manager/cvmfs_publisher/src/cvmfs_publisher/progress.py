# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of long steps: a live line on a terminal, a line now and then in a log."""

from __future__ import annotations

import collections
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

_LIVE_INTERVAL = 0.2  # seconds between updates on a terminal
LOG_INTERVAL = 10.0  # seconds between lines elsewhere
_WINDOW = 15.0  # seconds over which rates are taken


class Progress:
    """Counts files and bytes that are done, and shows them on `stream` until closed.

    `add` and `note` may be called from any thread. The line is written by a thread of its own, so that counting costs
    next to nothing and a line moves on even while nothing gets done.

    :param label: what is going on, e.g. ``Publishing``
    :param unit: what it goes on with
    :param total_files: number of files to do, if known
    :param total_bytes: number of bytes to do, if known
    :param stream: where to write; None keeps silent
    :param interval: seconds between two lines where `stream` is no terminal
    """

    def __init__(
        self,
        label: str,
        *,
        unit: str = "files",
        total_files: int | None = None,
        total_bytes: int | None = None,
        stream: TextIO | None = sys.stderr,
        interval: float = LOG_INTERVAL,
    ) -> None:
        self.files = 0
        self.bytes = 0
        self._label = label
        self._unit = unit
        self._total_files = total_files
        self._total_bytes = total_bytes
        self._stream = stream
        self._interval = interval
        self._live = stream is not None and stream.isatty()
        self._lock = threading.Lock()
        self._output = threading.Lock()
        self._start = time.monotonic()
        self._samples: collections.deque[tuple[float, int, int]] = collections.deque([(self._start, 0, 0)])
        self._shown = ""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._show, name="progress", daemon=True) if stream else None

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._thread:
            self._thread.join()
        if kind is None:
            self.note(self.summary())
        else:
            self._erase()

    def add(self, *, files: int = 0, bytes: int = 0) -> None:
        """Count what was done."""
        with self._lock:
            self.files += files
            self.bytes += bytes

    def set_total(self, *, files: int | None = None, bytes: int | None = None) -> None:
        """Say how much there is to do, once that is known."""
        with self._lock:
            self._total_files = files
            self._total_bytes = bytes

    def note(self, text: str) -> None:
        """Write a line that stays, e.g. that the store does not answer and is tried again."""
        if self._stream is not None:
            with self._output:
                self._erase()
                self._write(text + "\n")

    def summary(self) -> str:
        """Return what was done, in how much time."""
        elapsed = max(time.monotonic() - self._start, 1e-3)
        return (
            f"{self._label}: {self.files:,} {self._unit}, {format_bytes(self.bytes)} in {format_seconds(elapsed)} "
            f"({self.files / elapsed:,.0f} {self._unit}/s, {format_bytes(self.bytes / elapsed)}/s)"
        )

    def line(self) -> str:
        """Return where things stand."""
        now = time.monotonic()
        with self._lock:
            files, count, total_files, total_bytes = (
                self.files,
                self.bytes,
                self._total_files,
                self._total_bytes,
            )
        self._samples.append((now, files, count))
        while self._samples[0][0] < now - _WINDOW and len(self._samples) > 2:
            self._samples.popleft()
        then, files_then, count_then = self._samples[0]
        elapsed = max(now - then, 1e-3)
        file_rate, byte_rate = (files - files_then) / elapsed, (count - count_then) / elapsed
        parts = [
            f"{self._label}: {_of(f'{files:,}', total_files and f'{total_files:,}')} {self._unit}",
            _of(format_bytes(count), total_bytes and format_bytes(total_bytes)),
            f"{file_rate:,.0f} {self._unit}/s",
            f"{format_bytes(byte_rate)}/s",
        ]
        # A store takes as long for a small file as for many bytes of a large one, so both count, half and half.
        shares = [min(1.0, done / total) for done, total in ((files, total_files), (count, total_bytes)) if total]
        share = sum(shares) / len(shares) if shares else 1.0
        if share < 1:
            moving = files > files_then or count > count_then
            left = (now - self._start) * (1 - share) / share if share else 0.0
            parts.append(f"{format_seconds(left)} left" if moving and left else "waiting")
        return "  ".join(parts)

    def _show(self) -> None:
        interval = _LIVE_INTERVAL if self._live else self._interval
        while not self._closed.wait(interval):
            text = self.line()
            with self._output:
                if self._live:
                    width = shutil.get_terminal_size().columns - 1
                    text = text[:width]
                    self._write("\r" + text.ljust(len(self._shown)))
                    self._shown = text
                else:
                    self._write(text + "\n")

    def _erase(self) -> None:
        if self._shown:
            self._write("\r" + " " * len(self._shown) + "\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def _of(done: str, total: str | int | None) -> str:
    return f"{done} of {total}" if total else done


def format_bytes(count: float) -> str:
    """Return a number of bytes for people, in decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_seconds(seconds: float) -> str:
    """Return a span of time for people."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
