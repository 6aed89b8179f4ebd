# SPDX-License-Identifier: GPL-3.0-or-later
"""The store that fails on demand does so."""

from __future__ import annotations

import os

import pytest
from faults import EXIT_CODE, Fault, FaultyStore
from wire import stopwatch

from cvmfs_publisher.errors import EndpointUnreachable, QuotaExceeded
from cvmfs_publisher.storage import LocalStore


def test_fails_where_told(store_local: LocalStore) -> None:
    plan = [
        Fault(2, ("put",), "data/*", times=2, error=QuotaExceeded("full")),
        Fault(1, ("put_if_match",), error=EndpointUnreachable("lost"), done=True),
        Fault(1, ("get",), "data/*", corrupt=True),
        Fault(1, ("exists",), delay=0.2),
    ]
    store = FaultyStore(store_local, plan)
    store.put("data/1", b"1")
    version = store.put("manifest", b"1")
    for key in ("data/2", "data/3"):
        with pytest.raises(QuotaExceeded):
            store.put(key, b"2")
    store.put("data/4", b"4")
    with pytest.raises(EndpointUnreachable):
        store.put_if_match("manifest", b"2", version)
    assert store.get("manifest") == b"2"
    assert store.get("data/1") == b"0"
    assert store.get("data/1") == b"1"
    with stopwatch() as elapsed:
        assert not store.exists("data/2")
    assert elapsed() >= 0.2
    assert {item.key for item in store.list("data/")} == {"data/1", "data/4"}
    assert store.operations[:2] == [("put", "data/1"), ("put", "manifest")]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_dies_where_told(store_local: LocalStore, moment: str) -> None:
    child = os.fork()
    if not child:
        store = FaultyStore(store_local, [Fault(2, ("put",), die="before" if moment == "before" else "after")])
        store.put("1", b"")
        store.put("2", b"")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == EXIT_CODE
    assert store_local.exists("1")
    assert store_local.exists("2") == (moment == "after")
