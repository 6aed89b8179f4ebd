# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are where they belong, and nowhere else. It is proved by looking."""

from __future__ import annotations

import pathlib
import re
import stat
import threading
from collections.abc import Iterator

import pytest

from .conftest import Site


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


def test_no_output_shows_any(site: Site, source: pathlib.Path) -> None:
    """Not even at the highest verbosity that people use, with diffs, for runs that do and that fail."""
    repository = site.repository
    site.module("cvmfs_secret", repository=repository, engine=site.engine, state="absent")
    for run in (
        site.play("site", "-vvv", "--diff", "--check"),
        site.play("site", "-vvv", "--diff"),
        site.play("resign", "-vvv", "--diff", min_days=300, days=365),
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

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        site.module("cvmfs_secret", repository=site.repository, engine=site.engine, state="absent")
        # As for a real site, the credentials are not extra variables of the command line, but in the inventory.
        site.play("site").expect()
        site.play("resign", min_days=400, days=500).expect()
        site.publish(source, "sw/watched").expect()
    finally:
        done.set()
        watcher.join()
    assert seen == set()


def test_modules_that_are_given_secrets_are_not_written_to_the_disk(site: Site) -> None:
    """Ansible copies a module with its arguments to the host, unless it is pipelined. Both show in what it says."""
    site.module("cvmfs_secret", repository=site.repository, engine=site.engine, state="absent")
    runs = [site.play("site", "-vvv").expect(), site.play("resign", "-vvv", min_days=600, days=700).expect()]
    copied = set(re.findall(r"PUT .*AnsiballZ_(\w+)\.py", "".join(run.output for run in runs)))
    assert "cvmfs_keys" in copied  # nothing secret among its arguments
    assert copied & {"cvmfs_secret", "cvmfs_repository", "cvmfs_whitelist"} == set()
