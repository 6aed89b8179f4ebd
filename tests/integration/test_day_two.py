# SPDX-License-Identifier: GPL-3.0-or-later
"""What operators do with a repository after the first publish: change it, roll back, collect garbage, remove it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from .conftest import Site, running_site
from .plays import Bucket, secret_names

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose repository is garbage-collectable, and has no tags but those that are asked for."""
    server = {"CVMFS_GARBAGE_COLLECTION": True, "CVMFS_AUTO_TAG": False}
    with running_site(tmp_path_factory.mktemp("site"), "podman", server=server) as site:
        yield site


def _write(source: pathlib.Path, text: str) -> None:
    """Have a file `what` in a source, which is the same whenever it is written with that text."""
    (source / "what").write_text(text)
    os.utime(source / "what", (len(text), len(text)))


def _publish(site: Site, source: pathlib.Path, text: str, **variables: object) -> None:
    _write(source, text)
    site.publish(source, "sw", **variables).expect()


def _content(site: Site, source: pathlib.Path, text: str) -> None:
    """Hold what strangers see in `sw` against a source in which the file `what` has that text."""
    _write(source, text)
    site.verify(source, "sw").expect()


class TestRollback:
    def test_to_a_tag(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "first", tag="r1")
        _publish(site, source, "second", tag="r2")
        _publish(site, source, "third, the last")
        newest = site.revision()
        predicted = site.play("rollback", "--check", "--diff", repository=site.repository, tag="r1").expect()
        assert predicted.changed == 1
        assert f"revision {newest + 1} would be published, without the tags" in predicted.output
        assert site.revision() == newest
        run = site.play("rollback", repository=site.repository, tag="r1").expect()
        assert run.changed == 1
        assert "r2" in run.output
        assert site.revision() == newest + 1
        _content(site, source, "first")
        assert site.play("rollback", repository=site.repository, tag="r1").expect().changed == 0
        tags = {tag["name"]: tag["revision"] for tag in site.manager("cvmfs_repository_info")["tags"]}
        assert tags["r1"] == newest + 1
        assert "r2" not in tags

    def test_undo(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "as it was")
        _publish(site, source, "worse")
        newest = site.revision()
        assert site.play("rollback", repository=site.repository, undo=newest).expect().changed == 1
        _content(site, source, "as it was")
        assert site.play("rollback", repository=site.repository, undo=newest).expect().changed == 0
        assert site.revision() == newest + 1
        refused = site.play("rollback", repository=site.repository, undo=newest + 1).expect(2)
        assert "it was made by a rollback" in refused.output
        _publish(site, source, "better")
        refused = site.play("rollback", repository=site.repository, undo=newest).expect(2)
        assert f"the newest one is {newest + 2}" in refused.output
        _content(site, source, "better")

    def test_not_under_a_transaction(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "older")
        _publish(site, source, "new")
        transaction = site.manager("cvmfs_transaction")["transaction"]
        try:
            run = site.play("rollback", repository=site.repository, undo=site.revision()).expect(2)
            assert "Cannot roll the repository back" in run.output
        finally:
            site.manager("cvmfs_transaction", state="aborted", id=transaction["id"])
        _content(site, source, "new")

    def test_where_to(self, site: Site) -> None:
        for variables in ({}, {"tag": "r1", "undo": 3}):
            run = site.play("rollback", repository=site.repository, **variables).expect(2)
            assert "Say where to go" in run.output


class TestRepository:
    def test_a_changed_setting_takes_effect(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "before the change")
        before = site.revision()
        site.server["CVMFS_REPOSITORY_TTL"] = 61
        site.write_inventory()
        options = {"repository": site.repository}
        assert site.play("repository", **options).expect().changed == 2  # server.conf, and the repository
        assert site.manager("cvmfs_repository_info")["ttl"] == 61
        assert site.revision() == before + 1
        assert site.play("repository", **options).expect().changed == 0
        _content(site, source, "before the change")

    def test_a_setting_is_left_to_who_publishes(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "before the change")
        transaction = site.manager("cvmfs_transaction")["transaction"]
        try:
            site.server["CVMFS_REPOSITORY_TTL"] = 62
            site.write_inventory()
            run = site.play("repository", repository=site.repository).expect()
            assert "holds from the next publish on" in run.output
        finally:
            site.manager("cvmfs_transaction", state="aborted", id=transaction["id"])
        assert site.manager("cvmfs_repository_info")["ttl"] != 62
        _publish(site, source, "after the change")
        assert site.manager("cvmfs_repository_info")["ttl"] == 62

    def test_which(self, site: Site) -> None:
        run = site.play("repository", repository="unknown.example.org").expect(2)
        assert "Say which repository of the inventory" in run.output


class TestGarbageCollection:
    def test_what_nobody_needs_goes(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "kept because of its tag", tag="keep")
        _publish(site, source, "kept by nobody")
        (source / "big").unlink()
        _publish(site, source, "the newest")
        before = Bucket(site).objects(lease=False)
        predicted = site.play("gc", "--check", "--diff", revisions=0).expect()
        assert predicted.changed == 1
        assert Bucket(site).objects(lease=False) == before
        assert site.play("gc", revisions=0).expect().changed == 1
        assert len(Bucket(site).objects(lease=False)) < len(before)
        assert site.play("gc", revisions=0).expect().changed == 0
        site.play("check", integrity=True).expect()
        _content(site, source, "the newest")
        site.play("rollback", repository=site.repository, tag="keep").expect()

    def test_young_revisions_stay(self, site: Site, source: pathlib.Path) -> None:
        _publish(site, source, "young")
        assert site.play("gc", repository=site.repository).expect().changed == 0

    def test_a_repository_that_keeps_everything(self, site: Site) -> None:
        """It is left alone unless it is named, and then refused by name."""
        site.server = {}
        site.write_inventory()
        site.play("site").expect()
        assert site.play("gc", revisions=0).expect().changed == 0
        run = site.play("gc", repository=site.repository).expect(2)
        assert "Garbage collection is not enabled" in run.output


class TestRemoval:
    """The last tests of this site."""

    def test_not_without_confirmation(self, site: Site) -> None:
        before = site.revision()
        for confirm in ({}, {"confirm": "other.example.org"}):
            run = site.play("repository", repository=site.repository, state="absent", **confirm).expect(2)
            assert f"-e confirm={site.repository}" in run.output
        assert site.revision() == before

    def test_everything_goes_but_the_keys(self, site: Site) -> None:
        wanted = {"repository": site.repository, "state": "absent", "confirm": site.repository}
        with site.first_host_away() as away:
            run = site.play("repository", **wanted).expect(4)
            assert f"{away}, which is to delete what is published in {site.repository}, could not" in run.output
        assert secret_names(site)
        bucket = Bucket(site)
        before = bucket.objects()
        assert site.play("repository", "--check", "--diff", **wanted).expect().changed > 0
        assert bucket.objects() == before
        assert site.play("repository", **wanted).expect().changed > 0
        left = [key for key in Bucket(site, owned=True).objects() if key.startswith(f"{site.repository}/")]
        assert left == []
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            bucket.objects()
        assert (site.keys / f"{site.repository}.masterkey").exists()
        assert secret_names(site) == []
        assert not (site.config / site.repository).exists()

    def test_once_more(self, site: Site) -> None:
        wanted = {"repository": site.repository, "state": "absent", "confirm": site.repository}
        site.play("repository", **wanted).expect()
        assert secret_names(site) == []

    def test_it_can_be_made_anew(self, site: Site, source: pathlib.Path) -> None:
        """With the same keys, so that clients need nothing new."""
        site.play("repository", repository=site.repository).expect()
        _publish(site, source, "another life")
        _content(site, source, "another life")


def test_a_host_to_decommission(site: Site) -> None:
    """One that there is. What is taken away from it, Molecule's scenario `removal` shows, where it is the only one."""
    for wrong in ({}, {"host": "unknown.example.org"}):
        assert "Say which host" in site.play("decommission", **wrong).expect(2).output
