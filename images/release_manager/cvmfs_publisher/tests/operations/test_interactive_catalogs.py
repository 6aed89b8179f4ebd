# SPDX-License-Identifier: GPL-3.0-or-later
"""Nested catalogs and templates in interactive transactions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.managers import ReleaseManager, make, mirror
from operations.reading import below, published
from operations.unions import Checkout, enter_mount_namespace, move, needs_mounting

pytestmark = needs_mounting


@pytest.fixture(scope="module", autouse=True)
def mount_namespace() -> None:
    enter_mount_namespace()


@pytest.fixture
def checkout(local: ReleaseManager) -> Iterator[Checkout]:
    """A repository to be edited in place, without an open transaction."""
    found = Checkout(local)
    yield found
    found.close()


def publish(checkout: Checkout) -> frozenset[bytes]:
    """Publish, and return where the nested catalogs are."""
    checkout.manager.server("publish").succeeded()
    checkout.manager.check()
    return published(checkout.manager).catalogs - {b""}


def test_rules(checkout: Checkout) -> None:
    checkout.open()
    make(checkout.root, **{".cvmfsdirtab": "/sw/*\n", "sw__a__file": "", "old__b__file": "", "old__d__e__f": ""})
    assert publish(checkout) == {b"sw/a"}
    checkout.open()
    make(checkout.root, sw__c__file="")
    move(os.fsencode(checkout.root / "old/b"), os.fsencode(checkout.root / "sw/b"))
    assert publish(checkout) == {b"sw/a", b"sw/b", b"sw/c"}
    checkout.open()
    (checkout.root / "sw/a/.cvmfscatalog").unlink()
    (checkout.root / ".cvmfsdirtab").write_text("/sw/*\n/new/*\n/new/*/*\n")
    outcome = checkout.manager.server("publish", "--dry-run").succeeded()
    assert "The marker /sw/a/.cvmfscatalog was removed, but stays" in outcome.stderr
    assert publish(checkout) == {b"sw/a", b"sw/b", b"sw/c"}
    checkout.open()
    move(os.fsencode(checkout.root / "old"), os.fsencode(checkout.root / "new"))
    assert publish(checkout) == {b"sw/a", b"sw/b", b"sw/c", b"new/d", b"new/d/e"}


def test_balance(checkout: Checkout) -> None:
    weights = {"CVMFS_AUTOCATALOGS_MAX_WEIGHT": "20", "CVMFS_AUTOCATALOGS_MIN_WEIGHT": "9"}
    checkout.manager.configure(CVMFS_AUTOCATALOGS="true", **weights)
    checkout.open()
    make(checkout.root, **{f"{name}__{number}": "" for name in "abc" for number in range(14)})
    assert publish(checkout) == {b"a", b"b", b"c"}
    checkout.open()
    (checkout.root / "b/.cvmfsautocatalog").unlink()  # it is kept by hand from now on
    for path in [*checkout.root.glob("a/[0-9]*"), *checkout.root.glob("b/[0-9]*")]:
        path.unlink()
    assert publish(checkout) == {b"b", b"c"}


def test_template(checkout: Checkout, tmp_path: Path) -> None:
    source = make(tmp_path / "source", **{"bin__tool": "tool", "lib__.cvmfscatalog": "", "lib__one": "1"})
    checkout.manager.ingest(mirror(source, "sw/1.0"))
    checkout.open("-T", "/sw/1.0=/sw/1.1")
    assert (checkout.root / "sw/1.1/lib/one").read_text() == "1"
    (checkout.root / "sw/1.1/lib/one").write_text("one")
    (checkout.root / "sw/1.1/bin/tool").unlink()
    move(os.fsencode(checkout.root / "sw/1.1/lib"), os.fsencode(checkout.root / "sw/1.1/libraries"))
    assert publish(checkout) == {b"sw/1.0/lib", b"sw/1.1/libraries"}
    tree = published(checkout.manager).tree
    assert tree[b"sw/1.1/libraries/one"].content == b"one"
    assert tree[b"sw/1.0/lib/one"].content == b"1"
    assert b"bin/tool" in below(tree, b"sw/1.0")
    assert b"bin/tool" not in below(tree, b"sw/1.1")

    checkout.open("-T", "/sw/1.0=/sw/1.2")
    checkout.manager.server("abort", "-f").succeeded()
    assert published(checkout.manager).tree == tree
