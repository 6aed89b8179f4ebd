# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode says exactly what then happens, and leaves no trace."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import urllib.error
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import RADOSGW_ADMIN, Site
from .plays import Bucket, run_tasks, secret_names

# Nothing here is about the engine.
pytestmark = [pytest.mark.extended, pytest.mark.parametrize("site", ["podman"], indirect=True)]

PREDICTED = ("changed", "added", "modified", "removed", "paths", "diff")


def trace(site: Site) -> tuple[object, ...]:
    """Everything on which a module could leave one: bucket, container, secrets, files."""
    files = sorted((str(path), path.stat().st_mtime_ns) for path in site.config.rglob("*"))
    return Bucket(site).objects(), site.has_container(), secret_names(site), files


def change(source: pathlib.Path) -> None:
    """Every kind of change at once."""
    (source / "empty").unlink()
    (source / "new").mkdir()
    (source / "new" / "file").write_text("new")
    (source / "bin" / "tool").write_text("#!/bin/sh\necho other\n")
    (source / "bin" / "link").unlink()
    (source / "bin" / "link").symlink_to("other-name")
    (source / "line\nbreak").chmod(0o600)
    (source / "big").unlink()
    (source / "big").mkdir()
    os.utime(source / "new" / "file", (1_000_000_000, 1_000_000_000))


def test_publishing_is_predicted(site: Site, source: pathlib.Path) -> None:
    """From nothing to content, to changed content, to the same content, to a catalog of its own, to nothing."""
    base_dir = "predicted/1.0"
    item = {"source": str(source), "base_dir": base_dir}
    steps: list[tuple[Callable[[], object], dict[str, Any], bool]] = [
        (lambda: None, {"content": [item], "tag": "predicted"}, True),
        (lambda: change(source), {"content": [item]}, True),
        (lambda: None, {"content": [item], "tag": "not-worth-a-revision"}, False),
        (lambda: (source / "new" / ".cvmfscatalog").touch(), {"content": [item]}, True),
        (lambda: (source / "new" / "file").write_text("more"), {"content": [item]}, True),
        (lambda: shutil.rmtree(source / "bin"), {"content": [{**item, "mode": "merge"}]}, True),  # the directory's time
        (lambda: None, {"delete": [f"{base_dir}/new", "does/not/exist"]}, True),
        (lambda: None, {"delete": ["predicted"]}, True),
        (lambda: None, {"delete": ["predicted"]}, False),
    ]
    for number, (prepare, arguments, changes) in enumerate(steps):
        prepare()
        before, site_objects = trace(site), Bucket(site).objects(lease=False)
        (predicted,) = run_tasks(site, {"cvmfs_publish": arguments, "check_mode": True, "diff": True})
        assert trace(site) == before, f"step {number}"
        (happened,) = run_tasks(site, {"cvmfs_publish": arguments, "diff": True})
        assert "msg" not in predicted, predicted["msg"]
        assert "msg" not in happened, happened["msg"]
        assert happened["changed"] == changes, f"step {number}"
        assert {key: predicted[key] for key in PREDICTED} == {key: happened[key] for key in PREDICTED}, f"step {number}"
        assert happened["revision"] == predicted["revision"] + changes
        if not changes:
            assert site_objects == Bucket(site).objects(lease=False), f"step {number}"


def test_paths_are_those_that_changed(site: Site, source: pathlib.Path) -> None:
    """The diff says what a person would have said who compared the trees."""
    item = {"source": str(source), "base_dir": "told"}
    run_tasks(site, {"cvmfs_publish": {"content": [item]}})
    (source / "empty").unlink()
    (source / "bin" / "tool").chmod(0o700)  # a hard link: both names change
    (source / "bin" / "added").write_text("x")
    (predicted,) = run_tasks(site, {"cvmfs_publish": {"content": [item]}, "check_mode": True, "diff": True})
    signs = {line for line in predicted["diff"]["prepared"].splitlines() if line[2:] not in ("/told", "/told/bin")}
    assert signs == {"+ /told/bin/added", "~ /told/bin/tool", "~ /told/bin/other-name", "- /told/empty"}


def test_transactions_are_predicted(site: Site, source: pathlib.Path) -> None:
    before = trace(site)
    opening: dict[str, Any] = {"cvmfs_transaction": {"sources": [str(source)]}}
    (predicted,) = run_tasks(site, {**opening, "check_mode": True})
    assert predicted["changed"]
    assert trace(site) == before
    (opened,) = run_tasks(site, opening)
    identity = opened["transaction"]["id"]
    same = {"cvmfs_transaction": {"id": identity}, "check_mode": True}
    other = {"cvmfs_transaction": {"id": "another", "state": "aborted"}, "check_mode": True}
    aborting: dict[str, Any] = {"cvmfs_transaction": {"id": identity, "state": "aborted"}}
    still_open = trace(site)
    joined, strange, predicted = run_tasks(site, same, other, {**aborting, "check_mode": True})
    assert [joined["changed"], strange["changed"], predicted["changed"]] == [False, False, True]
    assert trace(site)[1:] == still_open[1:]
    aborted, again = run_tasks(site, aborting, aborting)
    assert [aborted["changed"], again["changed"]] == [True, False]
    assert trace(site)[1:] == before[1:]


def test_tags_are_predicted(site: Site) -> None:
    known = ("name", "root_hash", "description")  # beforehand; the time is not
    tasks = [{"cvmfs_tag": {"name": "predicted-tag", "state": state}} for state in ("present", "absent")]
    for task in tasks:
        before = trace(site)
        (predicted,) = run_tasks(site, {**task, "check_mode": True, "diff": True})
        assert trace(site) == before
        happened, again = run_tasks(site, {**task, "diff": True}, task)
        assert predicted["changed"]
        assert happened["changed"]
        for before, after in (
            (predicted["diff"][side]["tag"], happened["diff"][side]["tag"]) for side in ("before", "after")
        ):
            assert before is after is None or [before[key] for key in known] == [after[key] for key in known]
        assert not again["changed"]


def test_a_site_is_predicted(site: Site, tmp_path: pathlib.Path) -> None:
    """Before there is anything, the playbook says that there is much to do, and does none of it."""
    link = tmp_path / "collections"
    link.symlink_to(site.directory / "collections")
    new_site = dataclasses.replace(site, directory=tmp_path, repository=f"new-{uuid.uuid4().hex[:8]}.example.org")
    new_site.write_inventory()
    run = new_site.play("site", "--check", "--diff").expect()
    assert run.changed > 3
    assert not new_site.keys.exists()
    assert not new_site.config.exists()
    assert secret_names(new_site) == []
    with pytest.raises(urllib.error.HTTPError, match="404"):
        new_site.revision()
    users = subprocess.run([*RADOSGW_ADMIN, "user", "list"], check=True, capture_output=True, text=True).stdout
    assert f"cvmfs-{site.repository}" in users
    assert f"cvmfs-{new_site.repository}" not in users


@pytest.mark.parametrize(
    "arguments",
    [{"content": [{"source": "/nothing/here", "base_dir": "x"}]}, {"delete": ["/../x"]}],
    ids=["source", "path"],
)
def test_what_would_fail_fails_in_check_mode(site: Site, arguments: dict[str, Any]) -> None:
    before, objects = trace(site), Bucket(site).objects(lease=False)
    (predicted,) = run_tasks(site, {"cvmfs_publish": arguments, "check_mode": True})
    assert trace(site) == before
    (happened,) = run_tasks(site, {"cvmfs_publish": arguments})
    assert predicted["failed"]
    assert predicted["msg"] == happened["msg"]
    assert trace(site)[1:] == before[1:]
    assert Bucket(site).objects(lease=False) == objects
