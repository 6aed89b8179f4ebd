# SPDX-License-Identifier: GPL-3.0-or-later
"""People who come by sudo publish where they may, and never are in a container."""

from __future__ import annotations

import os
import pathlib
import subprocess
import tarfile
from collections.abc import Iterator

import pytest

from .conftest import Site, running_site

pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose repository has a directory for the user `nobody`, whom every machine has."""
    with running_site(tmp_path_factory.mktemp("shared"), "podman") as site:
        about = {"s3": {"endpoint": site.endpoint, "bucket": site.repository}, "permissions": {"sw/theirs": ["nobody"]}}
        site.write_inventory(cvmfs_repositories={site.repository: about})
        assert site.play("site").expect().changed == 1  # release-manager.json
        yield site


def by_sudo(site: Site, *arguments: str, stdin: bytes = b"", rc: int = 0) -> str:
    """Call the command as sudo would for the user `nobody`; all that it prints."""
    done = subprocess.run(
        [site.command, *arguments],
        check=False,
        env={**os.environ, "SUDO_USER": "nobody"},
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = done.stdout.decode()
    assert done.returncode == rc, output
    return output


def test_a_team_publishes_its_own_directory(shared: Site, source: pathlib.Path) -> None:
    archive = source.parent / "release.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(source, arcname=".")
    data, name, before = archive.read_bytes(), shared.repository, shared.revision()
    refused = by_sudo(shared, "ingest", f"{name}/sw/other", stdin=data, rc=1)
    assert f"nobody may not publish at {name}/sw/other, but below {name}/sw/theirs" in refused
    assert "may not do this" in by_sudo(shared, "server", name, "tag", "-l", rc=1)
    assert shared.revision() == before
    by_sudo(shared, "ingest", "-a", "theirs", f"{name}/sw/theirs/1.0", stdin=data)
    assert shared.revision() == before + 1
    shared.verify(archive, "sw/theirs/1.0").expect()
    assert f"{name}: revision {before + 1}" in by_sudo(shared, "status")


def test_permissions_that_are_none_are_refused(shared: Site) -> None:
    about = {"s3": {"endpoint": shared.endpoint, "bucket": shared.repository}, "permissions": {"sw/theirs": "nobody"}}
    shared.write_inventory(cvmfs_repositories={shared.repository: about})
    assert "permissions has sw/theirs: nobody, where a directory" in shared.play("site").expect(2).output
