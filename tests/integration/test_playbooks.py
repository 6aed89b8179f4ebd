# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks, from an empty bucket to a verified release, and what happens when something is in the way."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

from .conftest import Site


def test_a_second_run_changes_nothing(site: Site) -> None:
    assert site.play("site").expect().changed == 0
    assert site.manager("cvmfs_repository_info")["ttl"] == site.server["CVMFS_REPOSITORY_TTL"]


def test_publish_and_verify(site: Site, source: pathlib.Path) -> None:
    before = site.revision()
    run = site.publish(source, "sw/1.0", tag="first").expect()
    assert run.changed == 2  # transaction and publish
    assert site.revision() == before + 1
    assert not site.has_container()
    verified = site.verify(source, "sw/1.0").expect()
    assert "9 paths are as in the source" in verified.output
    assert "first" in [tag["name"] for tag in site.manager("cvmfs_repository_info")["tags"]]


def test_nothing_changes_without_a_change(site: Site, source: pathlib.Path) -> None:
    site.publish(source, "sw/same").expect()
    before = site.revision()
    assert site.publish(source, "sw/same", tag="not-worth-a-revision").expect().changed == 0
    assert site.revision() == before


def test_check_mode_predicts_and_shows_paths(site: Site, source: pathlib.Path) -> None:
    site.publish(source, "sw/check").expect()
    before = site.revision()
    (source / "empty").unlink()
    (source / "new").write_text("new")
    (source / "bin" / "tool").write_text("#!/bin/sh\necho other\n")
    run = site.publish(source, "sw/check", "--check", "--diff").expect()
    assert run.changed == 1
    for line in ("+ /sw/check/new", "~ /sw/check/bin/tool", "- /sw/check/empty"):
        assert line in run.output
    assert site.revision() == before
    assert site.publish(source, "sw/check").expect().changed == 2
    site.verify(source, "sw/check").expect()


def test_a_tar_file(site: Site, tarball: pathlib.Path) -> None:
    site.publish(tarball, "sw/tar").expect()
    site.verify(tarball, "sw/tar").expect()
    assert site.publish(tarball, "sw/tar").expect().changed == 0


def test_delete(site: Site, source: pathlib.Path) -> None:
    site.publish(source, "sw/gone").expect()
    run = site.play("publish", "--diff", repository=site.repository, delete=["sw/gone"]).expect()
    assert "- /sw/gone/big" in run.output
    entries = site.manager(
        "cvmfs_verify", content=[{"source": str(source), "base_dir": "sw/gone"}], fail_on_difference=False
    )
    assert {"path": "/sw/gone", "difference": "is not in the repository"} in entries["differences"]


def test_tags(site: Site) -> None:
    named = {"repository": site.repository, "tag": "named"}
    assert "named would be the revision with" in site.play("tag", "--check", **named).expect().output
    assert "named is the revision with" in site.play("tag", **named).expect().output
    assert site.play("tag", repository=site.repository, tag="named").expect().changed == 0
    assert site.play("tag", repository=site.repository, tag="named", state="absent").expect().changed == 1
    assert site.play("tag", repository=site.repository, tag="named", state="absent").expect().changed == 0


@pytest.mark.parametrize("playbook", ["verify", "tag", "abort"])
def test_the_repository_has_to_be_said(site: Site, playbook: str) -> None:
    assert "Say which repository" in site.play(playbook).expect(2).output


def test_check(site: Site) -> None:
    site.play("check", integrity=True).expect()


def test_resign(site: Site) -> None:
    assert site.play("resign").expect().changed == 0
    before = site.manager("cvmfs_repository_info")["whitelist"]
    assert site.resign("--check").expect().changed == 1
    assert site.manager("cvmfs_repository_info")["whitelist"]["expires"] == before["expires"]
    assert site.resign().expect().changed == 1
    assert site.manager("cvmfs_repository_info")["whitelist"]["days_left"] > before["days_left"] + 29
    assert not [name for name in _secret_names(site) if "masterkey" in name]


class TestTransactions:
    def test_a_stranger_is_left_alone(self, site: Site, source: pathlib.Path) -> None:
        before = site.revision()
        stranger = site.manager("cvmfs_transaction", sources=[str(source)])["transaction"]
        try:
            run = site.publish(source, "sw/strange").expect(2)
            assert f"Transaction {stranger['id']} is open" in run.output
            assert site.manager("cvmfs_repository_info")["transaction"]["id"] == stranger["id"]
            assert not site.manager("cvmfs_transaction", state="aborted", id="another")["changed"]
            published = site.manager("cvmfs_publish", delete=["x"], transaction="another")
            assert published["failed"]
            assert site.has_container()
        finally:
            assert site.manager("cvmfs_transaction", state="aborted", id=stranger["id"])["changed"]
        assert not site.has_container()
        assert site.revision() == before
        assert site.manager("cvmfs_repository_info")["transaction"] is None

    def test_a_lost_container_can_be_cleared(self, site: Site, source: pathlib.Path) -> None:
        site.manager("cvmfs_transaction")
        site.engine_command("kill", site.container)
        site.engine_command("rm", "-f", "-v", site.container)
        run = site.publish(source, "sw/lost").expect(2)
        assert "has a transaction open" in run.output
        assert site.play("abort", repository=site.repository).expect().changed == 1
        assert site.play("abort", repository=site.repository).expect().changed == 0
        site.publish(source, "sw/lost").expect()

    def test_what_fails_leaves_nothing_behind(self, site: Site, source: pathlib.Path) -> None:
        before = site.revision()
        run = site.publish(source, "sw/fails", tag="no tag name").expect(2)
        assert "is not a tag name" in run.output
        assert not site.has_container()
        assert site.manager("cvmfs_repository_info")["transaction"] is None
        assert site.revision() == before

    def test_a_publish_of_its_own(self, site: Site, source: pathlib.Path) -> None:
        content = [{"source": str(source), "base_dir": "sw/alone"}]
        assert site.manager("cvmfs_publish", content=content, tag="alone")["tag"] == "alone"
        again = site.manager("cvmfs_publish", content=content, tag="alone-2")
        assert not again["changed"]
        assert not site.has_container()


class TestBadInput:
    def test_a_device_node(self, site: Site, source: pathlib.Path) -> None:
        os.mknod(source / "null", 0o020666, os.makedev(1, 3))
        run = site.publish(source, "sw/device").expect(2)
        assert f"{source}/null is a character device" in run.output

    def test_a_tar_file_that_is_none(self, site: Site, tmp_path: pathlib.Path) -> None:
        (tmp_path / "x.tar").write_text("garbage")
        assert "is cut short" in site.publish(tmp_path / "x.tar", "sw/tar").expect(2).output

    def test_a_source_that_is_not_there(self, site: Site) -> None:
        assert "/nothing does not exist on this host" in site.publish(pathlib.Path("/nothing"), "x").expect(2).output

    def test_below_a_file(self, site: Site, source: pathlib.Path) -> None:
        site.publish(source, "below").expect()
        assert "is not a directory" in site.publish(source, "below/empty/x").expect(2).output

    @pytest.mark.extended
    def test_other_keys(self, site: Site) -> None:
        """A repository that exists is not overwritten, whatever keys somebody comes with."""
        before = site.revision()
        other = site.directory / "other"
        changes = {"cvmfs_keys_dir": str(other / "keys"), "release_manager_config_dir": str(other / "config")}
        kept = set(_secret_names(site))
        assert kept
        try:
            site.write_inventory(**changes)
            run = site.play("site").expect(2)
        finally:
            site.write_inventory()
            site.play("site").expect()
        assert "has a repository that is not of these keys" in run.output
        assert site.revision() == before
        assert set(_secret_names(site)) == kept

    def test_a_wrong_secret_key(self, site: Site) -> None:
        credentials = {site.repository: {"access_key": site.access_key, "secret_key": "wrong"}}
        run = site.play("site", cvmfs_s3_credentials=credentials).expect(2)
        assert f"Cannot look at bucket {site.repository} at {site.endpoint}: SignatureDoesNotMatch" in run.output

    def test_an_endpoint_that_is_down(self, site: Site) -> None:
        repositories = {site.repository: {"s3": {"endpoint": "http://127.0.0.1:9", "bucket": site.repository}}}
        run = site.play("site", cvmfs_repositories=repositories).expect(2)
        assert re.search(r"Cannot look at bucket .* at http://127.0.0.1:9: .*Is the service up", run.output)

    def test_a_bucket_that_is_in_use(self, site: Site) -> None:
        bucket = {"bucket": site.repository, "endpoint": site.endpoint, **site.owner_keys()}
        result = site.module("cvmfs_s3_bucket", state="absent", **bucket)
        assert "is not empty" in result["msg"]
        assert site.revision()


def _secret_names(site: Site) -> list[str]:
    """The engine's secrets of this repository; other tests have theirs beside them."""
    if site.engine == "docker":
        names = os.listdir(site.docker_secrets)
    else:
        names = site.engine_command("secret", "ls", "--format", "{{.Name}}").split()
    return [name for name in names if site.repository in name]
