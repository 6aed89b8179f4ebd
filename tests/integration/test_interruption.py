# SPDX-License-Identifier: GPL-3.0-or-later
"""A publish that ends in the middle, by any hand, and what goes on from there."""

from __future__ import annotations

import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import Site, running_site
from .plays import Bucket, grow, run_tasks


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of its own, which publishes slowly: over a single connection."""
    with running_site(tmp_path_factory.mktemp("slow"), "podman", s3_storage_connections=1) as site:
        yield site


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What takes some seconds to publish."""
    directory = tmp_path_factory.mktemp("large")
    grow(directory, 1500)
    return directory


class Publishing:
    """Publishes in the background."""

    def __init__(self, publish: Callable[[], Any]) -> None:
        self.result: Any = None
        self._publish = publish
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Publishing:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join()

    def wait_until_uploading(self, bucket: Bucket, before: int) -> None:
        """Return when some of the objects are there, but surely not all."""
        deadline = time.monotonic() + 120
        while len(bucket.objects()) < before + 50:
            assert self._thread.is_alive(), self.result
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _run(self) -> None:
        self.result = self._publish()


def manifest(site: Site) -> str:
    return Bucket(site).objects()[f"{site.repository}/.cvmfspublished"]


def test_container_is_killed(site: Site, large: pathlib.Path) -> None:
    """With SIGKILL, as when the host's memory runs out: strangers see the old revision, and a new container goes on."""
    bucket = Bucket(site)
    revision, published, objects = site.revision(), manifest(site), len(bucket.objects())
    with Publishing(lambda: site.publish(large, "killed")) as publishing:
        publishing.wait_until_uploading(bucket, objects)
        site.engine_command("kill", "--signal", "KILL", site.container)
    publishing.result.expect(2)
    assert not site.has_container()
    assert manifest(site) == published
    site.play("verify", repository=site.repository).expect()

    # Nobody told the storage that the transaction is over, so others wait, or somebody who knows ends it.
    assert "has a transaction open" in site.publish(large, "killed").expect(2).output
    assert not site.has_container()
    assert site.play("abort", repository=site.repository).expect().changed == 1
    site.publish(large, "killed").expect()
    assert site.revision() == revision + 1
    site.verify(large, "killed").expect()


def test_module_is_terminated(site: Site, tmp_path: pathlib.Path) -> None:
    """With SIGTERM, as by a time limit or Ctrl-C: the module aborts its own transaction and removes the container."""
    bucket = Bucket(site)
    published, objects = manifest(site), len(bucket.objects())
    grow(tmp_path, 8000)  # on a busy machine, the signal can be late
    content = [{"source": str(tmp_path), "base_dir": "terminated"}]
    with Publishing(lambda: run_tasks(site, {"cvmfs_publish": {"content": content}})) as publishing:
        publishing.wait_until_uploading(bucket, objects)
        for process in _modules(site, "cvmfs_publish"):
            os.kill(process, signal.SIGTERM)
    (result,) = publishing.result
    assert "ended by SIGTERM" in result["msg"], result
    assert not site.has_container()
    assert manifest(site) == published
    # The transaction is over: the next one need not wait.
    abort = {"id": "{{ result_0.transaction.id }}", "state": "aborted"}
    opened, aborted = run_tasks(site, {"cvmfs_transaction": {}}, {"cvmfs_transaction": abort})
    assert opened["changed"], opened
    assert aborted["changed"], aborted


def test_publish_that_fails_ends_its_own_transaction(site: Site, tmp_path: pathlib.Path) -> None:
    """And one that was opened before stays open for another try."""
    (tmp_path / "cut-short.tar").write_bytes(b"release/file" + bytes(500))
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "file").write_text("good")
    published = manifest(site)
    bad = {"content": [{"source": str(tmp_path / "cut-short.tar"), "base_dir": "fails"}]}
    good = {"content": [{"source": str(tmp_path / "good"), "base_dir": "fails"}]}
    (failed,) = run_tasks(site, {"cvmfs_publish": bad})
    assert failed["failed"]
    assert not site.has_container()
    assert manifest(site) == published
    own = {"transaction": "{{ result_0.transaction.id }}"}
    opened, failed, succeeded = run_tasks(
        site,
        {"cvmfs_transaction": {"sources": [str(tmp_path)]}},
        {"cvmfs_publish": {**bad, **own}},
        {"cvmfs_publish": {**good, **own}},
    )
    assert opened["changed"]
    assert failed["failed"]
    assert succeeded["added"] == 2  # the directory and the file
    assert not site.has_container()


def test_container_vanishes_in_a_transaction(site: Site, source: pathlib.Path) -> None:
    """Publishing says so, and does not quietly open another transaction."""
    published = manifest(site)
    (opened,) = run_tasks(site, {"cvmfs_transaction": {"sources": [str(source)]}})
    identity = opened["transaction"]["id"]
    site.engine_command("rm", "--force", "--volumes", site.container)
    content = [{"source": str(source), "base_dir": "vanished"}]
    try:
        (failed,) = run_tasks(site, {"cvmfs_publish": {"content": content, "transaction": identity}})
        assert f"Transaction {identity} is not open" in failed["msg"]
        assert not site.has_container()
        assert manifest(site) == published
    finally:
        site.play("abort", repository=site.repository).expect()


def _modules(site: Site, name: str) -> Iterator[int]:
    """The processes on this host that are a module at work for the site."""
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        ours = os.fsencode(site.directory) in environment
        is_python = b"python" in os.path.basename(arguments[0])
        if ours and is_python and any(f"AnsiballZ_{name}".encode() in argument for argument in arguments):
            yield int(process.name)
