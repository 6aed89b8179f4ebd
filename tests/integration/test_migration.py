# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository moves from a release manager with local storage to its bucket, and back, while it is in use."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from . import documents
from .conftest import ENGINES, ROOT, Site, running_site

pytestmark = pytest.mark.extended

PROGRAM = pathlib.Path(sys.executable).with_name("cvmfs_server")


@dataclasses.dataclass
class OldReleaseManager:
    """A release manager with local storage, as there was one before; this machine is it, in a directory."""

    directory: pathlib.Path
    repository: str

    @property
    def config(self) -> pathlib.Path:
        return self.directory / "etc"

    @property
    def storage(self) -> pathlib.Path:
        return self.directory / "srv" / self.repository

    def server(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run its ``cvmfs_server`` on the repository."""
        command = [PROGRAM, *arguments, self.repository]
        done = subprocess.run(command, env=self.environment, check=False, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stderr
        return done

    @property
    def environment(self) -> dict[str, str]:
        """How that is known to processes."""
        return {**os.environ, "CVMFS_CONFIG_DIR": str(self.config)}

    def make(self) -> None:
        """Create the repository."""
        storage = f"local,{self.storage}/data/txn,{self.storage}"
        self.server("mkfs", "-u", storage, "-w", f"http://127.0.0.1:1/cvmfs/{self.repository}", "-z")
        server_conf = self.config / "repositories.d" / self.repository / "server.conf"
        settings = f"CVMFS_SPOOL_DIR={self.directory}/spool\nCVMFS_UNION_FS_TYPE=none\nCVMFS_REPOSITORY_TTL=120\n"
        server_conf.write_text(server_conf.read_text() + settings)

    def publish(self, source: pathlib.Path, *arguments: str) -> None:
        """Publish a directory."""
        self.server("ingest", "--directory", str(source), "-b", "sw", *arguments)


@pytest.fixture(params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Site]:
    """A site that is to take a repository over."""
    with running_site(tmp_path / "site", request.param, is_created=False) as site:
        yield site


@pytest.fixture
def old(site: Site, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> OldReleaseManager:
    """The release manager that it is to be taken from."""
    found = OldReleaseManager(tmp_path / "old", site.repository)
    monkeypatch.setenv("CVMFS_CONFIG_DIR", str(found.config))  # for the playbook's own call of cvmfs_server
    found.make()
    return found


def test_there_and_back(site: Site, old: OldReleaseManager, source: pathlib.Path) -> None:
    old.publish(source, "-a", "v1")
    where = {"repository": site.repository, "host": "localhost", "config": str(old.config)}
    importing = {**where, "source": str(old.storage)}
    assert site.play("import", "--check", **importing).expect().changed > 0
    first = site.play("import", **importing).expect()
    assert "CVMFS_REPOSITORY_TTL=120" in first.output
    assert "run this again, and in the end with -e cut_over=true" in first.output
    assert site.play("import", **importing).expect().changed == 0
    for kind in ("pub", "crt", "key", "masterkey"):
        name = f"{site.repository}.{kind}"
        assert (site.keys / name).read_bytes() == (old.config / "keys" / name).read_bytes()
    assert (site.keys / f"{site.repository}.key").stat().st_mode & 0o777 == 0o600
    # What comes meanwhile, and the cut-over, after which nobody can publish there
    (source / "more").write_text("more")
    old.publish(source)
    assert site.play("import", cut_over=True, **importing).expect().changed > 0
    assert site.play("import", cut_over=True, **importing).expect().changed == 0
    assert "transaction" in old.server("transaction", check=False).stderr
    site.verify(source, "sw").expect()
    info = site.manager("cvmfs_repository_info")
    assert (info["revision"], [tag["name"] for tag in info["tags"] if tag["name"] == "v1"]) == (3, ["v1"])
    # It is a repository like any other now
    site.play("site").expect()
    (source / "new-home").write_text("from a container")
    settled = site.revision()  # the role's settings may have made a revision
    site.publish(source, "sw").expect()
    assert site.revision() == settled + 1
    assert "is no revision that" in site.play("import", **importing).expect(2).output
    # And it goes back to where it came from
    old.server("abort", "-f")
    exporting = {**where, "destination": str(old.storage)}
    assert site.play("export", "--check", **exporting).expect().changed > 0
    assert site.play("export", cut_over=True, **exporting).expect().changed > 0
    assert "transaction" in site.publish(source, "elsewhere").expect(2).output
    old.server("check", "-i")
    (source / "home-again").write_text("from the old release manager")
    old.publish(source)
    assert "v1" in old.server("tag", "-l").stdout


def test_keys_that_are_others(site: Site, old: OldReleaseManager, source: pathlib.Path) -> None:
    """A repository that was created anew by mistake is not taken for the one to import."""
    old.publish(source)
    site.play("site").expect()
    importing = {"repository": site.repository, "host": "localhost", "config": str(old.config)}
    refused = site.play("import", source=str(old.storage), **importing).expect(2)
    assert "is not the file of that name on localhost" in refused.output
    assert site.revision() == 1


def test_keys_that_are_nowhere(site: Site, old: OldReleaseManager) -> None:
    """None are made instead of them."""
    (old.config / "keys" / f"{site.repository}.crt").unlink()
    importing = {"repository": site.repository, "host": "localhost", "config": str(old.config)}
    refused = site.play("import", source=str(old.storage), **importing).expect(2)
    assert f"keys/{site.repository}.crt, nor is it in {site.keys} on the controller" in refused.output
    assert not site.keys.exists()


def test_the_guide(site: Site, old: OldReleaseManager, source: pathlib.Path) -> None:
    """What docs/migration.md says is so."""
    site.write_inventory(config=str(old.config))
    names = {
        "ssh old-rm.example.org ": "",
        "old-rm.example.org": "localhost",
        "inventories/site": "inventory.yml",
        "/etc/cvmfs/": f"{old.config}/",
        "/srv/cvmfs/": f"{old.storage.parent}/",
        "software.example.org": site.repository,
        **{f"/build/release-1.{number}": str(source) for number in (1, 2, 3)},
    }
    environment = {**site.environment, "CVMFS_CONFIG_DIR": str(old.config)}
    guide = ROOT / "docs" / "migration.md"
    assert documents.run(guide, environment=environment, directory=site.directory, names=names) == 13


def test_what_to_move_has_to_be_said(site: Site) -> None:
    for playbook in ("import", "export"):
        assert f"Say what to {playbook}" in site.play(playbook, repository=site.repository).expect(2).output
    assert not site.keys.exists()
