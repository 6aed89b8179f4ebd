# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks ``import`` and ``export``: from CernVM-FS's own release manager to a bucket, and back again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration.conftest import Site, running_site

from . import sources
from .native import KEEP_ALL
from .services import Bucket, Directory
from .trees import Tree, differences, read_directory, read_mount
from .upstream import NewUpstream, Published, Repository, Upstream

NewSite = Callable[[Repository], Site]


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[NewSite]:
    """A function that makes a site to which a repository of the old release manager, this machine, is to move."""
    with contextlib.ExitStack() as made:

        def make(theirs: Repository) -> Site:
            site = made.enter_context(
                running_site(tmp_path / "site", "podman", repository=theirs.name, is_created=False)
            )
            # What modules call cvmfs_server is that of the old release manager
            python = site.directory / "python"
            python.write_text(f'#!/bin/sh\nPATH={Path(theirs.tools.server).parent}:$PATH exec {sys.executable} "$@"\n')
            python.chmod(0o755)
            wanted = {"create": False, "s3": {"endpoint": site.endpoint, "bucket": site.repository}}
            settings = {"CVMFS_GARBAGE_COLLECTION": True, **KEEP_ALL}
            site.write_inventory(
                ansible_python_interpreter=str(python),
                cvmfs_repositories={theirs.name: {**wanted, "server": settings}},
            )
            return site

        yield make


def move(upstream: Upstream, theirs: Repository, site: Site, **importing: str) -> Published:
    """Move a repository while it is published to, publish in its new home, and return it.

    A transaction of the old release manager stays open.
    """
    source = sources.make(sources.awkward(3), site.directory / "source")
    where = {"repository": theirs.name, "host": "localhost", **importing}
    seen = []
    for tag, cut_over in (("first", False), ("second", True)):
        with theirs.publish("-a", tag) as mounted:
            sources.make(sources.awkward(len(seen) + 1), mounted / "tree")
        seen.append(read(upstream, theirs))
        site.play("import", cut_over=cut_over, **where).expect()
    assert site.play("import", cut_over=True, **where).expect().changed == 0
    assert "another transaction is already open" in theirs.server("transaction", expect=None)

    moved = Published(theirs.name, site.url, site.keys / f"{theirs.name}.pub")
    assert moved.manifest() == theirs.manifest()
    upstream.check(moved)
    assert not differences(seen[1], read(upstream, moved))
    site.play("site").expect()
    site.publish(source, "new", tag="third").expect()
    upstream.assert_shows(moved, read_directory(source), b"new")
    site.play("gc", repository=theirs.name, revisions=1).expect()
    upstream.check(moved, manifest_names_reflog=False)
    assert not differences(seen[0], read(upstream, moved, "CVMFS_REPOSITORY_TAG=first\n"))
    return moved


def read(upstream: Upstream, repository: Published, options: str = "") -> Tree:
    """Return what users see."""
    with upstream.mount(repository, options) as mount:
        return read_mount(mount.path)


def test_from_a_disk_and_back(
    upstream: Upstream, new_upstream: NewUpstream, new_site: NewSite, served: Directory, report: Callable[[str], None]
) -> None:
    theirs = new_upstream(served, "-g")
    site = new_site(theirs)
    storage = served.path / theirs.name
    moved = move(upstream, theirs, site, source=str(storage))
    revision = int(moved.manifest()["S"])

    theirs.server("abort", "-f")
    back = {"repository": theirs.name, "host": "localhost", "destination": str(storage), "owner": "root:root"}
    site.play("export", cut_over=True, **back).expect()
    theirs.check()
    with theirs.publish("-a", "back") as mounted:
        (mounted / "back").write_text("published by the old release manager again")
    upstream.check(theirs)
    assert int(theirs.manifest()["S"]) == revision + 1
    assert {"first", "second", "third", "back"} <= theirs.tags().keys()
    report(f"moved from a disk to a bucket and back: revision {revision}, then {revision + 1}")


def test_from_a_bucket(
    upstream: Upstream, new_upstream: NewUpstream, new_site: NewSite, bucket: Bucket, report: Callable[[str], None]
) -> None:
    theirs = new_upstream(bucket, "-g")
    moved = move(upstream, theirs, new_site(theirs), source_s3_conf=str(bucket.configuration))
    report(f"moved from a bucket of CernVM-FS's own to another one: revision {moved.manifest()['S']}")
