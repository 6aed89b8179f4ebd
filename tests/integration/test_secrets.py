# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are where they belong, and nowhere else. It is proved by looking."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import stat
import threading
from collections.abc import Callable, Iterator

import pytest

from .conftest import ENGINES, Site, running_site


@pytest.fixture
def transaction(site: Site, source: pathlib.Path) -> Iterator[str]:
    """A container with an open transaction."""
    opened = site.manager("cvmfs_transaction", sources=[str(source)])["transaction"]["id"]
    yield opened
    site.manager("cvmfs_transaction", state="aborted", id=opened)


def _leaks(site: Site, text: str) -> list[str]:
    return [secret for secret in site.secrets() if secret in text]


@pytest.mark.usefixtures("transaction")
def test_what_the_container_sees(site: Site) -> None:
    paths = [f"/etc/cvmfs/keys/{site.repository}.key", f"/etc/cvmfs/s3/{site.repository}.conf"]
    listed = site.engine_command("exec", site.container, "stat", "-c", "%a %u %n", *paths).split("\n")
    assert listed[:2] == [f"400 0 {path}" for path in paths]
    keys = site.engine_command("exec", site.container, "ls", "/etc/cvmfs/keys").split()
    assert keys == [f"{site.repository}.{suffix}" for suffix in ("crt", "key", "pub")]  # no master key


@pytest.mark.usefixtures("transaction")
def test_neither_arguments_nor_environment(site: Site) -> None:
    assert _leaks(site, site.engine_command("container", "inspect", site.container)) == []
    assert _leaks(site, site.engine_command("exec", site.container, "env")) == []
    assert _leaks(site, site.engine_command("logs", site.container)) == []


def test_the_image_has_none(site: Site) -> None:
    history = site.engine_command("history", "--no-trunc", "localhost/cvmfs-release-manager:native")
    assert _leaks(site, history) == []


def test_the_configuration_has_none(site: Site) -> None:
    files = [path for path in site.config.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert names == {"client.conf", "lock", "release-manager.json", "server.conf", f"{site.repository}.pub"}
    assert [path for path in files if _leaks(site, path.read_text())] == []


def test_the_controller_keeps_them_for_itself(site: Site) -> None:
    modes = {path.name.removeprefix(site.repository): stat.S_IMODE(path.stat().st_mode) for path in site.keys.iterdir()}
    assert modes == {".masterkey": 0o400, ".key": 0o400, ".s3.conf": 0o400, ".pub": 0o444, ".crt": 0o444}
    assert stat.S_IMODE(site.keys.stat().st_mode) == 0o700


@pytest.mark.extended
def test_no_output_shows_any(site: Site, source: pathlib.Path) -> None:
    """Not even at the highest verbosity that people use, with diffs, for runs that do and that fail."""
    repository = site.repository
    site.module("cvmfs_secret", repository=repository, engine=site.engine, state="absent")
    for run in (
        site.play("site", "-vvv", "--diff", "--check"),
        site.play("site", "-vvv", "--diff"),
        site.resign("-vvv", "--diff"),
        site.publish(source, "sw/secret", "-vvv", "--diff"),
        site.publish(source, "sw/secret/empty/x", "-vvv", "--diff").expect(2),
        site.play("site", "-vvv", release_manager_image="localhost/nothing:here").expect(2),
    ):
        assert "verbosity" in run.output or "task path" in run.output
        assert _leaks(site, run.output) == []


def test_no_process_shows_any(site: Site, source: pathlib.Path) -> None:
    """Arguments and environment of all processes of the machine, while keys travel and a publish runs."""
    seen: set[str] = set()
    secrets = site.secrets()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for process in pathlib.Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        words = (process / name).read_bytes().decode("utf-8", "replace").split("\0")
                    except OSError:
                        continue
                    # That the tests themselves are told the key in their environment is not what is tested.
                    data = "\n".join(word for word in words if not word.startswith("CVMFS_TEST_"))
                    seen.update(f"{name} of {process.name}: {words}" for secret in secrets if secret in data)
            done.wait(0.02)

    with _meanwhile(watch, done):
        site.module("cvmfs_secret", repository=site.repository, engine=site.engine, state="absent")
        # As for a real site, the credentials are not extra variables of the command line, but in the inventory.
        site.play("site").expect()
        assert site.resign().expect().changed == 1
        site.publish(source, "sw/watched").expect()
    assert seen == set()


@contextlib.contextmanager
def _meanwhile(watch: Callable[[], None], done: threading.Event) -> Iterator[None]:
    """Run `watch` in a thread, which ends when it is `done`, and not before."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield
            assert not watching.done(), watching.exception()
        finally:
            done.set()


@pytest.mark.extended
@pytest.mark.parametrize("engine", ENGINES)
def test_the_master_key_stays_on_the_controller(
    engine: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a repository is created, its whitelist signed and its key replaced.

    Neither is it ever among the engine's secrets, nor in anything that Ansible brings to the host, all of which goes
    through files here. What belongs there is seen in both places, so looking works.
    """
    monkeypatch.setenv("ANSIBLE_KEEP_REMOTE_FILES", "1")
    brought = tmp_path / "brought"
    with (
        running_site(tmp_path / "site", engine, is_created=False, ansible_remote_tmp=str(brought)) as site,
        watched(secrets_directory(site)) as stored,
        watched(brought) as files,
    ):
        site.play("site").expect()
        assert site.resign().expect().changed == 1
        (old,) = site.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
        site.play("rotate_keys", repository=site.repository, replaces=old).expect()
        masterkey = (site.keys / f"{site.repository}.masterkey").read_text().splitlines()[5]
        secret_key = site.secret_key
    for texts in (stored, files):
        assert [text for text in texts if secret_key in text]
        assert not [text for text in texts if masterkey in text]


def secrets_directory(site: Site) -> pathlib.Path:
    """Where the engine keeps its secrets."""
    if site.engine == "docker":
        return site.docker_secrets
    return pathlib.Path(site.engine_command("info", "--format", "{{.Store.GraphRoot}}").strip(), "secrets")


@contextlib.contextmanager
def watched(directory: pathlib.Path) -> Iterator[set[str]]:
    """Collect what is in the files below a directory at any time."""
    seen: set[str] = set()
    known = set()
    done = threading.Event()

    def look() -> None:
        for path in (pathlib.Path(place, name) for place, _, names in os.walk(directory) for name in names):
            with contextlib.suppress(OSError):
                state = path.stat()
                if not stat.S_ISREG(state.st_mode) or (path, state.st_mtime_ns, state.st_size) in known:
                    continue
                known.add((path, state.st_mtime_ns, state.st_size))
                seen.update(_readable(path.name, path.read_text(errors="replace")))

    def watch() -> None:
        while not done.wait(0.02):
            look()

    with _meanwhile(watch, done):
        yield seen


def _readable(name: str, text: str) -> list[str]:
    """What a file says; podman has its secrets encoded in one document, by their numbers."""
    if name == "secretsdata.json":
        with contextlib.suppress(ValueError):
            return [base64.b64decode(value).decode() for value in json.loads(text).values()]
    return [text]


def test_docker_has_no_secrets_after_a_reboot(site: Site, source: pathlib.Path) -> None:
    """What needs them fails, and leaves nothing in their place; the role brings them back, whatever is there."""
    if site.engine != "docker":
        pytest.skip("podman keeps them")
    names = [path.name for path in site.docker_secrets.glob(f"cvmfs-{site.repository}-*")]
    for name in names:
        (site.docker_secrets / name).unlink()
    run = site.publish(source, "sw/reboot").expect(2)
    assert "bind source path does not exist" in run.output
    assert not list(site.docker_secrets.glob(f"cvmfs-{site.repository}-*"))
    for name in names:  # as earlier versions have had them made
        (site.docker_secrets / name).mkdir()
    assert site.play("site").expect().changed > 0
    assert site.play("site").expect().changed == 0
    site.publish(source, "sw/reboot").expect()


def test_modules_that_are_given_secrets_are_not_written_to_the_disk(site: Site) -> None:
    """Ansible copies a module with its arguments to the host, unless it is pipelined. Both show in what it says."""
    site.module("cvmfs_secret", repository=site.repository, engine=site.engine, state="absent")
    copied = set(re.findall(r"PUT .*AnsiballZ_(\w+)\.py", site.play("site", "-vvv").expect().output))
    assert "cvmfs_keys" in copied  # nothing secret among its arguments
    assert "cvmfs_secret" not in copied
