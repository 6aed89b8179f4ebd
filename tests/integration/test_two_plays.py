# SPDX-License-Identifier: GPL-3.0-or-later
"""Plays that want the same repository's container on one host, at the same time."""

from __future__ import annotations

import concurrent.futures
import pathlib
import time

import pytest

from .conftest import Site
from .plays import before_the_engine

# Nothing here is about the engine.
pytestmark = pytest.mark.parametrize("site", ["podman"], indirect=True)


def test_one_wins(site: Site) -> None:
    """It has its transaction, in a container that survives; the other says clearly why it has none."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _number: site.manager("cvmfs_transaction"), range(2)))
    winners = [result for result in results if not result["failed"]]
    assert len(winners) == 1, results
    identity = winners[0]["transaction"]["id"]
    try:
        (loser,) = [result for result in results if result["failed"]]
        assert f"Transaction {identity} is open on {site.repository}" in loser["msg"]
        assert site.has_container()
        assert site.manager("cvmfs_repository_info")["transaction"]["id"] == identity
    finally:
        aborted = site.manager("cvmfs_transaction", state="aborted", id=identity)
    assert aborted["changed"]


def test_the_other_waits(
    site: Site, source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another container, and until the first has published undisturbed."""
    before = site.revision()
    content = [{"source": str(source), "base_dir": "sw/first"}]
    first = site.manager("cvmfs_transaction", sources=[str(source)])["transaction"]["id"]
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("PATH", before_the_engine(site, tmp_path, f'echo "$*" >>{calls}'))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(site.manager, "cvmfs_transaction", retry_timeout=300)
        # A look at what there is, one before it waits, and one after it has waited
        while calls.read_text().count(f"container inspect {site.container}\n") < 3:
            assert not waiting.done(), waiting.result()
            time.sleep(0.2)
        published = site.manager("cvmfs_publish", content=content, transaction=first)
        second = waiting.result()
    assert published["revision"] == before + 1, published
    identity = second["transaction"]["id"]
    assert identity != first
    assert site.manager("cvmfs_repository_info")["transaction"]["id"] == identity
    assert site.manager("cvmfs_transaction", state="aborted", id=identity)["changed"]
    assert not site.has_container()


def test_an_abort_that_fails_is_told_with_the_failure(
    site: Site, source: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine fails while it publishes, and from then on."""
    broken = tmp_path / "broken"
    script = (
        f'case "$*" in *" publish "*" --transaction "*) touch {broken};; esac\n'
        f'[ ! -e {broken} ] || {{ echo "Error: out of order" >&2; exit 125; }}'
    )
    try:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", before_the_engine(site, tmp_path, script))
            output = site.publish(source, "sw/told").expect(2).output
    finally:
        site.play("abort", repository=site.repository).expect()
    assert "Cannot publish: Error: out of order. Besides, transaction " in output
    assert f"ansible-playbook cvmfs.publishing.abort -e repository={site.repository}" in output
    assert not site.has_container()
