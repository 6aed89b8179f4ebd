# SPDX-License-Identifier: GPL-3.0-or-later
"""What CernVM-FS's own software publishes, the catalog layer reads as CernVM-FS's own client shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cvmfs_publisher.content import ContentHash
from cvmfs_publisher.storage import open_store

from . import sources
from .native import KEEP_ALL
from .services import Place
from .trees import differences, read_catalogs, read_mount
from .upstream import Repository, Upstream


@pytest.fixture(scope="module")
def repository(upstream: Upstream, new_name: Callable[[str], str], place: Place) -> Iterator[Repository]:
    with upstream.new_repository(new_name("up"), place) as made:
        made.configure(KEEP_ALL)
        yield made


@pytest.mark.parametrize(
    "tree", [sources.awkward(1), sources.awkward(2), sources.large()], ids=["awkward", "changed", "large"]
)
def test_catalogs_are_read_as_the_client_shows_them(
    upstream: Upstream, repository: Repository, place: Place, tree: sources.Directory, tmp_path: Path
) -> None:
    with repository.publish() as mounted:
        sources.make(tree, mounted / "tree")

    store = open_store(place.storage_of(repository.name))
    root = ContentHash.parse(repository.manifest()["C"]).with_suffix("C")
    found = read_catalogs(store, root, tmp_path)
    store.close()

    with upstream.mount(repository) as mount:
        assert mount.attribute("root_hash") == root.hex
        assert len(found) > len(tree.content)
        assert not differences(read_mount(mount.path), found)
