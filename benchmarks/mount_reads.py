#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares reading a mounted revision with CernVM-FS's own client, cvmfs2, on the same repository.

    mount_reads.py [--files N] [--rounds N] [--directory DIR] [--ratio R]

A tree of source files, kept in git, is published to a repository in a local directory, which a web server of this
process's offers to both. Then each mounts it; ``find -ls``, ``tar`` and ``git status`` run over it once cold, and again
warm; then the same through an overlay on top. Both take turns, so that both meet the same machine; each one's best warm
round counts. The exit code is 1 when a warm round takes more than ``--ratio`` times as long as with cvmfs2. Without
cvmfs2 on PATH, there is nothing to compare with, and the numbers stand alone. To be run as root: it mounts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from release_manager import on_disk

from cvmfs_publisher.changes.change_set import ChangeSet, Content, Mode
from cvmfs_publisher.mount import ObjectCache, RevisionView, mounted
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.operations.publish import PublishOptions, ingest
from cvmfs_publisher.repository import Manifest
from cvmfs_publisher.storage import HttpStore

NAME = "benchmark.example.org"
FILES_IN_DIRECTORY = 25
DIRECTORIES_IN_CATALOG = 40
CACHE = 4 << 30  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="keeps the repository, for the next time")
    parser.add_argument("--ratio", type=float, default=2.0, help="of warm rounds to cvmfs2's (default: %(default)s)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("Run this as root: it mounts file systems")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mount-reads-")))
        base = arguments.directory or scratch / "repository"
        if not (base / "published").exists():
            publish(base, arguments.files)
        url = stack.enter_context(web_server(base / "storage"))
        # An overlay's upper directory cannot be on another overlay
        upper = scratch / "upper"
        upper.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", upper], check=True)
        stack.callback(subprocess.run, ["umount", upper], check=True)
        programs = ["publisher"] + ["cvmfs2"] * (shutil.which("cvmfs2") is not None)
        mounts: dict[tuple[str, str], Path] = {}
        for program in programs:
            place = scratch / program
            place.mkdir()
            view = stack.enter_context((own if program == "publisher" else upstream)(base, url, place))
            mounts[program, ""] = view
            mounts[program, " + overlay"] = stack.enter_context(overlay(view, upper / program))
        slow = []
        for name in ("find -ls", "tar", "git status"):
            found = measure(name, base, scratch, mounts, arguments.rounds)
            report(name, found, programs)
            for kind in ("", " + overlay"):
                warm = found["warm"]
                if "cvmfs2" in programs and warm["publisher", kind] > arguments.ratio * warm["cvmfs2", kind]:
                    slow.append(name + kind)
    if slow:
        sys.exit(f"More than {arguments.ratio:g} times as slow as cvmfs2: {', '.join(slow)}")


def publish(base: Path, files: int) -> None:
    """Make a source tree, and a repository with it."""
    source = base / "source"
    numbers = random.Random(1)  # noqa: S311  (the same tree each time)
    for first in range(0, files, FILES_IN_DIRECTORY):
        index = first // FILES_IN_DIRECTORY
        package = source / f"package{index // DIRECTORIES_IN_CATALOG:03}"
        directory = package / f"module{index % DIRECTORIES_IN_CATALOG:03}"
        directory.mkdir(parents=True)
        (package / ".cvmfscatalog").touch()
        for number in range(min(FILES_IN_DIRECTORY, files - first)):
            text = numbers.randbytes(numbers.randrange(50, 2000)).hex()
            (directory / f"source_{number:03}.py").write_text(text)
    git = ["git", "-C", str(source), "-c", "gc.auto=0", "-c", "user.name=benchmark", "-c", "user.email=root@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *command], check=True)
    # One pack instead of one object per file: the files are what is to be measured
    subprocess.run([*git, "repack", "-a", "-d", "-q"], check=True)

    environment = on_disk(NAME, base)
    mkfs(environment, NAME, MkfsOptions())
    ingest(environment, NAME, ChangeSet((Content(str(source), b"", Mode.MERGE),)), PublishOptions())
    (base / "published").touch()


@contextlib.contextmanager
def web_server(directory: Path) -> Iterator[str]:
    """Offer a directory, as a Stratum 0 does."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def own(base: Path, url: str, place: Path) -> Iterator[Path]:
    """Mount the repository with the publisher's view."""
    del base

    @contextlib.contextmanager
    def open_view() -> Iterator[RevisionView]:
        with HttpStore(url) as store, ObjectCache(store, place / "cache", CACHE) as cache:
            manifest = Manifest.parse(store.get(".cvmfspublished"))
            with RevisionView(NAME, manifest.root_hash, manifest.revision, cache) as view:
                yield view

    mountpoint = place / "mnt"
    mountpoint.mkdir()
    with mounted(open_view, mountpoint, place / "log"):
        yield mountpoint


@contextlib.contextmanager
def upstream(base: Path, url: str, place: Path) -> Iterator[Path]:
    """Mount the repository with CernVM-FS's client, with its default settings."""
    mountpoint, cache, config = place / "mnt", place / "cache", place / "client.conf"
    for directory in (mountpoint, cache):
        directory.mkdir()
    config.write_text(
        f"CVMFS_CACHE_BASE={cache}\nCVMFS_RELOAD_SOCKETS={cache}\nCVMFS_MOUNT_DIR=/cvmfs\nCVMFS_SERVER_URL={url}\n"
        f"CVMFS_HTTP_PROXY=DIRECT\nCVMFS_PUBLIC_KEY={base}/etc/keys/{NAME}.pub\nCVMFS_SHARED_CACHE=no\n"
        f"CVMFS_QUOTA_LIMIT={CACHE >> 20}\nCVMFS_NFILES=16384\nCVMFS_CLAIM_OWNERSHIP=no\nCVMFS_USE_GEOAPI=no\n"
    )
    options = f"ro,allow_other,fsname={NAME},config={config}"
    subprocess.run(["cvmfs2", "-o", options, NAME, mountpoint], check=True, stdout=subprocess.DEVNULL)
    try:
        yield mountpoint
    finally:
        subprocess.run(["umount", mountpoint], check=True)


@contextlib.contextmanager
def overlay(lower: Path, scratch: Path) -> Iterator[Path]:
    """Mount an overlay, writable."""
    for name in ("upper", "work", "merged"):
        (scratch / name).mkdir(parents=True)
    merged = scratch / "merged"
    options = f"lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", merged], check=True)


def measure(
    name: str, base: Path, scratch: Path, mounts: dict[tuple[str, str], Path], rounds: int
) -> dict[str, dict[tuple[str, str], float]]:
    """Return the seconds that a command took on each mount, ``cold``, and ``warm`` in the best round."""
    cold: dict[tuple[str, str], float] = {}
    warm: dict[tuple[str, str], float] = {}
    for turn in range(rounds + 1):
        for contender, mountpoint in mounts.items():
            index = scratch / "index" / "".join(contender)
            if not index.exists():
                shutil.copytree(base / "source" / ".git", index)
            seconds = run(name, mountpoint, index)
            if turn == 0:
                cold[contender] = seconds
            else:
                warm[contender] = min(seconds, warm.get(contender, seconds))
    return {"cold": cold, "warm": warm}


def run(name: str, mountpoint: Path, git_dir: Path) -> float:
    """Return the seconds that a command takes."""
    commands = {
        "find -ls": ["find", ".", "-ls"],
        # Told to write to /dev/null itself, tar does not read the files
        "tar": ["sh", "-c", "tar c . | cat"],
        "git status": ["git", f"--git-dir={git_dir}", "--work-tree=.", "status", "--short", "--", "package*"],
    }
    begin = time.monotonic()
    done = subprocess.run(commands[name], cwd=mountpoint, stdout=subprocess.DEVNULL, check=False)
    seconds = time.monotonic() - begin
    if done.returncode:
        sys.exit(f"{name} failed at {mountpoint}")
    return seconds


def report(name: str, found: dict[str, dict[tuple[str, str], float]], programs: list[str]) -> None:
    for kind in ("", " + overlay"):
        for state, seconds in found.items():
            line = f"{name}, {state}{kind}".ljust(28)
            for program in programs:
                line += f"  {program} {seconds[program, kind]:7.3f} s"
            if "cvmfs2" in programs:
                line += f"  publisher : cvmfs2 = {seconds['publisher', kind] / seconds['cvmfs2', kind]:.2f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
