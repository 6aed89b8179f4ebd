# SPDX-License-Identifier: GPL-3.0-or-later
"""What all of these tests need, and why they are skipped where it is missing.

A case has two directions. Native first: ``new_native`` makes a repository and ``mirror`` or ``publish`` fill it,
``upstream.assert_shows`` lets CernVM-FS's own check and client look, ``take_over`` makes its server go on. Theirs
first: ``new_upstream`` makes a repository, ``adopt`` makes the native publisher go on. ``served`` is a local directory
and fast; ``bucket`` is S3; ``place`` is one after the other.

Run them alone. What makes a mount namespace meanwhile, as Molecule by ``tools/with-cgroup2``, keeps the mounts that are
there at that moment, and the client that is to take their place waits for the locks of the one before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import services
from .native import KEEP_ALL, Adopt, NativeRepository, NewNative
from .services import Bucket, Directory, Place
from .upstream import CONFIGURATION, NewUpstream, Repository, TakeOver, Tools, Upstream, find_tools

_HERE = Path(__file__).parent


_SKIPPED = pytest.StashKey[str]()
_REPORTED = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip everything here, for one reason, where there is no CernVM-FS."""
    tools = find_tools()
    if isinstance(tools, str):
        config.stash[_SKIPPED] = reason = f"interoperability not tested: {tools}"
        for item in items:
            if _HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say so, also where reasons are not asked for."""
    if _SKIPPED in config.stash:
        terminalreporter.write_line(config.stash[_SKIPPED], yellow=True)
    for line in config.stash.get(_REPORTED, []):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that says something at the end of the session."""
    return request.config.stash.setdefault(_REPORTED, []).append


@pytest.fixture(scope="session", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    """Clean up when the tests are told to end, too."""

    def leave(number: int, _: object) -> None:
        pytest.exit(f"signal {number}", returncode=128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    yield
    signal.signal(signal.SIGTERM, previous)


@pytest.fixture(scope="session")
def tools() -> Tools:
    found = find_tools()
    assert isinstance(found, Tools)
    return found


@pytest.fixture(scope="session")
def upstream(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    """CernVM-FS's own software."""
    return Upstream(tools, tmp_path_factory.mktemp("upstream"))


@pytest.fixture(scope="session")
def session_token() -> str:
    return secrets.token_hex(3)


@pytest.fixture(scope="session")
def bucket(session_token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """A bucket for this session."""
    endpoint = os.environ.get("CVMFS_TEST_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("interoperability over S3 not tested: CVMFS_TEST_S3_ENDPOINT is not set")
    with services.bucket(
        f"interop-{session_token}",
        endpoint,
        os.environ["CVMFS_TEST_S3_ACCESS_KEY"],
        os.environ["CVMFS_TEST_S3_SECRET_KEY"],
        tmp_path_factory.mktemp("s3"),
    ) as made:
        yield made


@pytest.fixture(scope="session")
def new_name(session_token: str) -> Callable[[str], str]:
    """A function that makes repository names which nobody else uses."""
    numbers = iter(range(1000))
    return lambda word: f"{word}{next(numbers)}-{session_token}.example.org"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    """A directory with a web server."""
    with services.served(tmp_path_factory.mktemp("served")) as directory:
        yield directory


@pytest.fixture(scope="module", params=["local", "S3"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of storage, one after the other."""
    chosen: Place = request.getfixturevalue("served" if request.param == "local" else "bucket")
    return chosen


@pytest.fixture(scope="session")
def new_native(new_name: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> NewNative:
    """A function that makes a repository with the native publisher; settings can be given for its ``server.conf``."""

    def make(place: Place, **settings: str) -> NativeRepository:
        name = new_name("native")
        repository = NativeRepository.at(name, place.url_of(name), tmp_path_factory.mktemp("native"))
        repository.configure({"CVMFS_UPSTREAM_STORAGE": place.storage_of(name), **settings})
        repository.server("mkfs")
        return repository

    return make


@pytest.fixture
def take_over(upstream: Upstream) -> Iterator[TakeOver]:
    """A function that makes CernVM-FS's own software go on with a native repository, until the end of the test.

    It needs no master key and writes nothing to the storage. Settings can be given for its ``server.conf``.
    """
    with contextlib.ExitStack() as taken:

        def take_over(native: NativeRepository, place: Place, **settings: str) -> Repository:
            storage = place.storage_of(native.name)
            theirs = taken.enter_context(upstream.configured(native, storage, native.keys))
            theirs.configure({**KEEP_ALL, **settings})
            return theirs

        yield take_over


@pytest.fixture
def new_upstream(upstream: Upstream, new_name: Callable[[str], str]) -> Iterator[NewUpstream]:
    """A function that makes a repository with CernVM-FS's own software, removed from this machine after the test.

    Options can be given for its ``mkfs``, and settings for its ``server.conf``.
    """
    with contextlib.ExitStack() as made:

        def make(place: Place, *options: str, **settings: str) -> Repository:
            theirs = made.enter_context(upstream.new_repository(new_name("up"), place, *options))
            theirs.configure({**KEEP_ALL, **settings})
            return theirs

        yield make


@pytest.fixture
def adopt(tmp_path_factory: pytest.TempPathFactory) -> Adopt:
    """A function that gives the native publisher what it needs to go on with a repository, and nothing more."""

    def adopt(theirs: Repository, place: Place, *, with_master_key: bool = False, **settings: str) -> NativeRepository:
        native = NativeRepository.at(theirs.name, theirs.url, tmp_path_factory.mktemp("adopted"))
        native.configure({"CVMFS_UPSTREAM_STORAGE": place.storage_of(theirs.name), **KEEP_ALL, **settings})
        native.keys.mkdir()
        for kind in ("pub", "key", "crt", *(["masterkey"] if with_master_key else [])):
            shutil.copy(CONFIGURATION / "keys" / f"{theirs.name}.{kind}", native.keys)
        return native

    return adopt
