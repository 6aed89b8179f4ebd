# SPDX-License-Identifier: GPL-3.0-or-later
"""A large software release is published in bounded memory, whatever its size."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from operations.managers import ReleaseManager

FILES = 51_500
LARGE_FILES = 20
LARGE_SIZE = 15_000_000
TOTAL = 930_000_000
LIMIT = 1 << 30

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sizes that compress to about a half, no two of them the same."""
    top = tmp_path_factory.mktemp("release")
    numbers = random.Random(1)  # noqa: S311
    material = b"".join(numbers.randbytes(512) + b"some text, again and again. " * 18 for _ in range(40_000))
    small = FILES - LARGE_FILES
    average = (TOTAL - LARGE_FILES * LARGE_SIZE) // small
    written = 0
    for number in range(FILES):
        size = LARGE_SIZE if number < LARGE_FILES else 2 * average * (number % 1001) // 1000
        if number == FILES - 1:
            size = TOTAL - written
        start = numbers.randrange(len(material) - LARGE_SIZE)
        directory = top / f"package{number // 500}" / f"module{number // 50}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number}").write_bytes(b"%d\n" % number + material[start : start + size - 6])
        written += (directory / f"file{number}").stat().st_size
    return top


MEASURE = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
output = process.stdout.read()
_, status, usage = os.wait4(process.pid, 0)
assert status == 0
print(json.dumps([usage.ru_maxrss * 1024, json.loads(output)]))
"""
"""Run by a process of its own: what a process had before it became another program counts, too."""


def measured(manager: ReleaseManager, command: str, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Run the program; return the most memory that it had, in bytes, and the document that it printed."""
    argv = [sys.executable, "-c", MEASURE, *manager.argv(command, "--json", *arguments)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, env=manager.process_environment, check=True)
    memory, document = json.loads(done.stdout)
    return memory, document


def test_memory(manager: ReleaseManager, release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manager.configure(CVMFS_MIN_CHUNK_SIZE="4194304", CVMFS_AVG_CHUNK_SIZE="8388608", CVMFS_MAX_CHUNK_SIZE="16777216")
    mirror: list[str | Path] = ["--mirror", "--directory", release, "-b", "sw"]
    steps: list[tuple[str, str, list[str | Path], dict[str, object]]] = [
        ("publish", "ingest", mirror, {"files": FILES, "bytes": TOTAL, "revision": 2}),
        ("nothing changed", "ingest", mirror, {"files": 0, "changed": False, "revision": 2}),
        ("dry run", "ingest", [*mirror, "--dry-run"], {"changed": False}),
        ("check", "check", [], {"problems": [], "revision": 2}),
        ("remove", "ingest", ["-d", "sw"], {"revision": 3, "files": 0}),
    ]
    for what, command, arguments, expected in steps:
        started = time.monotonic()
        memory, document = measured(manager, command, *arguments)
        with capsys.disabled():
            kind = manager.settings["CVMFS_UPSTREAM_STORAGE"].partition(",")[0]
            print(f"{kind}, {what}: {memory / 1e6:.0f} MB, {time.monotonic() - started:.1f} s")
        assert memory < LIMIT
        assert {key: document[key] for key in expected} == expected
