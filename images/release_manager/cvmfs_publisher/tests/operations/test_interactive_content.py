# SPDX-License-Identifier: GPL-3.0-or-later
"""Grafts, external files and bundles in interactive transactions."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cvmfs_publisher.mount.overlay import UnionKind
from operations.managers import ReleaseManager, make
from operations.reading import published
from operations.test_content_features import description_of, entry_of, names_in
from operations.unions import Checkout, enter_mount_namespace, needs_mounting

pytestmark = needs_mounting


@pytest.fixture(scope="module", autouse=True)
def mount_namespace() -> None:
    enter_mount_namespace()


@pytest.fixture(params=[UnionKind.OVERLAY, UnionKind.FUSE_OVERLAY], ids=lambda kind: kind.name)
def checkout(local: ReleaseManager, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """A repository to be edited in place, without an open transaction."""
    found = Checkout(local, request.param)
    yield found
    found.close()


def test_grafts(checkout: Checkout) -> None:
    manager = checkout.manager
    large = os.urandom(300_000)
    checkout.open()
    make(checkout.root / "sw", small="some content", large=large)
    manager.server("publish").succeeded()

    checkout.open()
    files = {}
    for name in ("small", "large"):
        files |= {name: "", f".cvmfsgraft-{name}": description_of(entry_of(manager, f"sw/{name}"))}
    make(checkout.root / "grafts", **files)
    manager.server("publish").succeeded()
    assert names_in(manager, "grafts") == {b"small", b"large"}
    tree = published(manager).tree
    assert [tree[b"grafts/small"].content, tree[b"grafts/large"].content] == [b"some content", large]
    manager.check()

    # They are files like others in the next transaction
    checkout.open()
    assert (checkout.root / "grafts/large").read_bytes() == large
    with (checkout.root / "grafts/small").open("a") as file:
        file.write(", and more")
    manager.server("publish").succeeded()
    assert published(manager).tree[b"grafts/small"].content == b"some content, and more"
    manager.check()


def test_external_files(checkout: Checkout) -> None:
    manager = checkout.manager
    checkout.open()
    make(checkout.root / "sw", before="stored")
    manager.server("publish").succeeded()
    checkout.open()
    make(checkout.root / "sw", file="external")
    manager.server("publish", "-X", "-Z", "none").succeeded()
    assert [entry_of(manager, f"sw/{name}").is_external for name in ("before", "file")] == [False, True]
    manager.check()


def test_bundles(checkout: Checkout) -> None:
    manager = checkout.manager
    checkout.open()
    make(checkout.root, **{".cvmfsbundles": "{}"})
    manager.server("publish").succeeded()
    assert entry_of(manager, ".cvmfsbundles").is_regular
    checkout.open()
    make(checkout.root / "sub", **{".cvmfsbundles": "{}"})
    outcome = manager.server("publish")
    assert outcome.code == 1
    assert "/sub/.cvmfsbundles is not in the repository's root directory" in outcome.stderr
