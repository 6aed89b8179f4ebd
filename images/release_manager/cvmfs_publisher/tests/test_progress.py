# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress reports."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time

import pytest

from cvmfs_publisher.progress import Progress, format_bytes, format_seconds

pytestmark = pytest.mark.usefixtures("no_thread_leaks")


def test_counts_from_many_threads() -> None:
    progress = Progress("Test", stream=None)

    def count() -> None:
        for _ in range(5000):
            progress.add(files=1, bytes=3)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (progress.files, progress.bytes) == (40_000, 120_000)


def test_a_log_gets_few_lines() -> None:
    stream = io.StringIO()
    started = time.monotonic()
    with Progress("Publishing", total_files=1000, total_bytes=2_000_000, stream=stream, interval=0.2) as progress:
        for _ in range(5):
            progress.add(files=100, bytes=200_000)
            time.sleep(0.1)
        while not stream.getvalue():
            assert time.monotonic() < started + 60
            time.sleep(0.1)
        progress.note("the store does not answer")
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 2 + (time.monotonic() - started) / 0.2
    pattern = r"Publishing: \d+ of 1,000 files  [\d.]+ [kM]B of 2.0 MB  [\d,]+ files/s  [\d.]+ [kM]B/s  .* left"
    lines.remove("the store does not answer")
    assert all(re.fullmatch(pattern, line) for line in lines[:-1])
    assert re.fullmatch(r"Publishing: 500 files, 1.0 MB in [\d.]+ s \([\d,]+ files/s, .*/s\)", lines[-1])


def test_a_terminal_gets_one_line_that_moves() -> None:
    leader, follower = os.openpty()
    with open(follower, "w") as stream, Progress("Publishing", stream=stream) as progress:
        for _ in range(6):
            progress.add(files=1, bytes=10)
            time.sleep(0.15)
        progress.note("note")
    output = ""
    with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
        while part := os.read(leader, 100_000):
            output += part.decode()
    os.close(leader)
    updates = output.split("\r")
    assert sum(update.startswith("Publishing: ") for update in updates) > 3
    assert output.count("\n") == 2
    assert "\rnote\r\n" in output
    assert all(len(update) < 120 for update in updates)


def test_an_error_leaves_no_half_line() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), Progress("Publishing", stream=stream):
        raise KeyError
    assert stream.getvalue() == ""


def test_estimates_from_files_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("Test", total_files=100, total_bytes=1000, stream=None)
    now += 1
    assert progress.line().endswith("waiting")
    now += 9
    progress.add(files=10, bytes=300)
    assert progress.line() == "Test: 10 of 100 files  300 B of 1 kB  1 files/s  30 B/s  40 s left"
    now += 100
    progress.line()
    assert progress.line().endswith("waiting")
    progress.add(files=90, bytes=700)
    assert progress.line().endswith("/s")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.3 MB"), (5e9, "5.0 GB"), (7e15, "7000.0 TB")],
)
def test_formats_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.94, "9.9 s"), (59, "59 s"), (61, "1:01 min"), (3725, "1:02:05 h")]
)
def test_formats_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
