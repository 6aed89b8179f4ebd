#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What S3 brings over block storage: the same releases published to a bucket, and to a disk of this machine.

    s3_or_block_storage.py URL BUCKET [--files N --megabytes M] [--at-once N] [--rounds N]

The keys of an existing bucket are in CVMFS_TEST_S3_ACCESS_KEY and CVMFS_TEST_S3_SECRET_KEY. A release like those of
scientific software is published, then one changed file, then as many repositories `--at-once`. Storages take turns, so
that both meet the same machine; each one's best round counts. Where CernVM-FS's own tools are on PATH, their
``cvmfs_server`` publishes the same to the disk, as release managers have done until now (root).

Then a publisher is killed in the middle of publishing, and its host is gone. With S3, another host which has nothing
but configuration and keys breaks the lease and publishes the release: that is timed. With block storage another host
first has to have what was on the disk: copying it from one place on the same disk to another is timed, which is the
least that restoring it can take.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from content_pipeline import make_tree
from release_manager import PROGRAM, on_disk, on_s3, server, variables

from cvmfs_publisher.operations.environment import Environment

NAME = "storage.example.org"
CHECKOUT = Path(__file__).resolve().parents[1]
Make = Callable[[Path], Environment]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("bucket")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=4, help="repositories, each with a quarter of the files")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    def in_bucket(directory: Path) -> Environment:
        return on_s3(NAME, directory, arguments.url, arguments.bucket)

    places: dict[str, Make] = {"disk": lambda directory: on_disk(NAME, directory), "S3": in_bucket}
    best: dict[tuple[str, str], float] = {}

    def note(what: str, place: str, seconds: float) -> None:
        best[what, place] = min(best.get((what, place), seconds), seconds)

    with tempfile.TemporaryDirectory(prefix="storage-", dir="/var/tmp") as name:  # a disk, as /tmp need not be
        scratch = Path(name)
        release = make_tree(scratch / "release", arguments.files, arguments.megabytes * 10**6)
        part = make_tree(scratch / "part", arguments.files // 4, arguments.megabytes * 10**6 // 4)
        change = scratch / "change"
        change.mkdir()
        for turn in range(arguments.rounds):
            for place, make in places.items():
                directory = scratch / f"{place}{turn}"
                with repository(make, directory) as environment:
                    note("a release", place, ingest(environment, release, "sw/1.0"))
                    (change / "changed").write_text(str(time.time_ns()))
                    note("one file of it", place, ingest(environment, change, "sw/1.0/bin"))
                several = f"{arguments.at_once} at once"
                note("a quarter of it", place, at_once(make, directory / "one", part, 1))
                note(f"{several}, each a quarter", place, at_once(make, directory / "more", part, arguments.at_once))
            if turn == 0:
                as_until_now(scratch, release, change, note)
        taken_over = take_over(in_bucket, scratch / "lost", release)
        restored, size = restore(scratch / "moved", release)
    columns = sorted({place for _, place in best}, key=["until now", "disk", "S3"].index)
    print(f"{'seconds':32}" + "".join(f"{place:>11}" for place in columns))
    for what in dict.fromkeys(what for what, _ in best):
        cells = (f"{best[what, place]:.2f}" if (what, place) in best else "-" for place in columns)
        print(f"{what:32}" + "".join(f"{cell:>11}" for cell in cells))
    print(f"the host is lost: with S3, another one has published after {taken_over:.2f} s;")
    print(f"  with a disk, just to have its {size / 1e6:,.0f} MB again takes {restored:.2f} s")


@contextlib.contextmanager
def repository(make: Make, directory: Path) -> Iterator[Environment]:
    """Have a new repository, and nothing of it in the end."""
    environment = make(directory)
    server(environment, "mkfs", NAME)
    try:
        yield environment
    finally:
        empty(environment)


def empty(environment: Environment) -> None:
    """Delete all objects."""
    with contextlib.closing(environment.store(environment.settings(NAME))) as store, ThreadPoolExecutor(16) as pool:
        list(pool.map(store.delete, [info.key for info in store.list("")]))


def ingest(environment: Environment, source: Path, target: str) -> float:
    """Publish a directory; return the seconds."""
    return server(environment, "ingest", "--directory", str(source), "-b", target, NAME).seconds


def at_once(make: Make, directory: Path, source: Path, count: int) -> float:
    """Publish a directory to as many repositories at the same time; return the seconds until all are there."""
    with contextlib.ExitStack() as stack:
        environments = [stack.enter_context(repository(make, directory / str(number))) for number in range(count)]
        begin = time.monotonic()
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda environment: ingest(environment, source, "sw/1.0"), environments))
        return time.monotonic() - begin


def take_over(make: Make, directory: Path, source: Path) -> float:
    """Kill a publisher when it has uploaded something, and publish on another host; return the seconds in between."""
    with repository(make, directory / "first") as environment:
        command = [str(PROGRAM), "ingest", "--directory", str(source), "-b", "sw/1.0", NAME]
        with contextlib.closing(environment.store(environment.settings(NAME))) as store:
            before = sum(1 for _ in store.list("data/"))
            lost = subprocess.Popen(command, env=variables(environment), stdout=subprocess.DEVNULL)
            while sum(1 for _ in store.list("data/")) < before + 100:
                if lost.poll() is not None:
                    sys.exit("The release was published before its publisher could be killed: give it more --files")
        lost.kill()
        lost.wait()
        begin = time.monotonic()
        (directory / "second").mkdir()
        shutil.copytree(environment.config_dir, directory / "second" / "etc")
        conf = directory / "second" / "etc" / "repositories.d" / NAME / "server.conf"
        conf.write_text(conf.read_text().replace(f"{directory}/first/spool", f"{directory}/second/spool"))
        second = Environment(directory / "second" / "etc")
        server(second, "abort", "-f", NAME)
        ingest(second, source, "sw/1.0")
        seconds = time.monotonic() - begin
        shutil.rmtree(directory / "first" / "spool", ignore_errors=True)
        server(second, "check", NAME)  # without anything of the first host
        return seconds


def restore(directory: Path, source: Path) -> tuple[float, int]:
    """Copy what a repository has on disk; return the seconds, and how many bytes there were."""
    with repository(lambda place: on_disk(NAME, place), directory) as environment:
        ingest(environment, source, "sw/1.0")
        storage = directory / "storage"
        size = sum(path.stat().st_size for path in storage.rglob("*") if path.is_file())
        subprocess.run(["sync"], check=True)
        begin = time.monotonic()
        shutil.copytree(storage, directory / "copy")
        subprocess.run(["sync", "--file-system", directory / "copy"], check=True)
        return time.monotonic() - begin, size


def as_until_now(scratch: Path, release: Path, change: Path, note: Callable[[str, str, float], None]) -> None:
    """Let CernVM-FS's own server publish to this machine's disk, if it is here."""
    sys.path.insert(0, str(CHECKOUT))
    from tests.interop import services, upstream  # it needs boto3

    tools = upstream.find_tools()
    if isinstance(tools, str):
        print(tools, file=sys.stderr)
        return
    place = scratch / "until-now"
    place.mkdir()
    with (
        services.served(place) as directory,
        upstream.Upstream(tools, scratch).new_repository(NAME, directory) as theirs,
    ):
        for what, source, target in (("a release", release, "sw/1.0"), ("one file of it", change, "sw/1.0/bin")):
            begin = time.monotonic()
            with theirs.publish() as mounted:
                (mounted / target).mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "--archive", f"{source}/.", mounted / target], check=True)
            note(what, "until now", time.monotonic() - begin)


if __name__ == "__main__":
    main()
