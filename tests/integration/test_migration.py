# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository moves from a release manager with local storage to its bucket, and back, while it is in use."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator

import pytest
import yaml

from . import documents
from .conftest import ENGINES, ROOT, Site, running_site

pytestmark = pytest.mark.extended

PROGRAM = pathlib.Path(sys.executable).with_name("cvmfs_server")
_KILLER = """\
#!{python}
import os, pathlib, signal, subprocess, sys
status = subprocess.run([{program!r}, *sys.argv[1:]]).returncode
once = pathlib.Path({once!r})
if once.exists():
    once.unlink()
    pid, found = os.getppid(), []
    while pid > 1:
        found += [pid] if b"ansible-playbook" in pathlib.Path(f"/proc/{{pid}}/cmdline").read_bytes() else []
        pid = int(pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(found[-1], signal.SIGKILL)
sys.exit(status)
"""


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
        (self.config / "server.local").write_text("CVMFS_AUTO_TAG=false\nCVMFS_FILE_MBYTE_LIMIT=2000\n")

    def kill_the_controller_once(self, site: Site) -> None:
        """Have the site's Ansible end when its first command of ``cvmfs_server`` has."""
        programs, once = self.directory / "programs", self.directory / "once"
        programs.mkdir()
        once.touch()
        (programs / "cvmfs_server").write_text(
            _KILLER.format(python=sys.executable, program=str(PROGRAM), once=str(once))
        )
        python = self.directory / "python"
        python.write_text(f'#!/bin/sh\nPATH={programs}:$PATH exec {sys.executable} "$@"\n')
        for path in (programs / "cvmfs_server", python):
            path.chmod(0o755)
        site.write_inventory(ansible_python_interpreter=str(python))

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
    assert "CVMFS_FILE_MBYTE_LIMIT=2000" in first.output
    assert "CVMFS_AUTO_TAG=false" not in first.output  # server.conf says something else
    assert "run this again, and in the end with -e cut_over=true" in first.output
    assert site.play("import", **importing).expect().changed == 0
    for kind in ("pub", "crt", "key", "masterkey"):
        name = f"{site.repository}.{kind}"
        assert (site.keys / name).read_bytes() == (old.config / "keys" / name).read_bytes()
    assert (site.keys / f"{site.repository}.key").stat().st_mode & 0o777 == 0o600
    # What comes meanwhile, and the cut-over, after which nobody can publish there
    (source / "more").write_text("more")
    old.publish(source)
    old.kill_the_controller_once(site)
    site.play("import", cut_over=True, **importing).expect(-signal.SIGKILL)
    assert "transaction" in old.server("transaction", check=False).stderr
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
    moved = site.play("export", cut_over=True, **exporting).expect()
    assert moved.changed > 0
    assert f"cvmfs.publishing.abort -e repository={site.repository}" in moved.output
    assert site.play("export", cut_over=True, **exporting).expect().changed == 0
    # Of which nothing on the host is needed
    assert not site.has_container()
    lease = site.manager("cvmfs_transaction", lasting=True)
    assert lease["changed"] is False
    assert "has a lasting transaction open since" in site.publish(source, "elsewhere").expect(2).output
    status = subprocess.run([site.command, "status"], check=True, capture_output=True, text=True).stdout
    assert re.search("nobody can publish: .* has a lasting transaction open since", status)
    old.server("check", "-i")
    (source / "home-again").write_text("from the old release manager")
    old.publish(source)
    assert "v1" in old.server("tag", "-l").stdout
    # Or not
    aborted = site.manager("cvmfs_transaction", state="aborted", id=lease["transaction"]["id"])
    assert aborted["changed"] is True
    site.publish(source, "elsewhere").expect()


def to_be_imported(site: Site) -> dict[str, object]:
    """What the inventory says about the repository until it is there."""
    return {site.repository: {"create": False, "s3": {"endpoint": site.endpoint, "bucket": site.repository}}}


def test_site_does_not_create_what_is_to_be_imported(site: Site, old: OldReleaseManager, source: pathlib.Path) -> None:
    old.publish(source)
    site.write_inventory(cvmfs_repositories=to_be_imported(site))
    site.play("site").expect()
    assert site.play("site").expect().changed == 0
    assert "has create: false" in site.play("repository", repository=site.repository).expect(2).output
    assert {path.name for path in site.keys.iterdir()} == {f"{site.repository}.s3.conf"}
    with pytest.raises(urllib.error.HTTPError):
        site.revision()
    importing = {"repository": site.repository, "host": "localhost", "config": str(old.config)}
    site.play("import", source=str(old.storage), **importing).expect()
    site.play("site").expect()
    assert site.revision() == 2
    site.verify(source, "sw").expect()


def test_a_disk_on_another_machine_than_the_old_release_manager(
    site: Site, old: OldReleaseManager, source: pathlib.Path
) -> None:
    """The one machine has no cvmfs_server, the other one no container engine's configuration."""
    old.publish(source)
    programs = site.directory / "programs"
    programs.mkdir()
    for path in (*pathlib.Path("/usr/bin").iterdir(), *pathlib.Path("/usr/sbin").iterdir()):
        if not path.name.startswith("cvmfs") and not (programs / path.name).exists():
            (programs / path.name).symlink_to(path)
    without = site.directory / "python"
    without.write_text(f'#!/bin/sh\nPATH={programs} exec {sys.executable} "$@"\n')
    without.chmod(0o755)
    site.write_inventory(ansible_python_interpreter=str(without))
    path = site.directory / "inventory.yml"
    inventory = yaml.safe_load(path.read_text())
    inventory["all"]["hosts"]["old"] = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    path.write_text(yaml.safe_dump(inventory))
    importing = {"repository": site.repository, "host": "localhost", "config": str(old.config), "cut_over": True}
    importing["source"] = str(old.storage)
    refused = site.play("import", **importing).expect(2)
    assert "localhost has no cvmfs_server" in refused.output
    assert not site.keys.exists()
    site.play("import", old_release_manager="old", **importing).expect()
    assert "transaction" in old.server("transaction", check=False).stderr
    assert site.play("import", old_release_manager="old", **importing).expect().changed == 0
    site.verify(source, "sw").expect()


def test_nobody_logs_in_to_the_old_machine(site: Site, old: OldReleaseManager, source: pathlib.Path) -> None:
    """It is prepared for copying alone, and what it has for that can be taken away."""
    old.publish(source)
    issuer = {"issuer": "https://gitlab.example.org", "names": {"team": {"project": "1"}}, "jwks": {"keys": []}}
    site.write_inventory(release_manager_oidc=[{**issuer, "audience": "https://cvmfs.example.org"}])
    path = site.directory / "inventory.yml"
    inventory = yaml.safe_load(path.read_text())
    own = {"release_manager_config_dir": str(site.directory / "old-config")}
    inventory["all"]["hosts"]["old"] = {**inventory["all"]["hosts"]["localhost"], **own}
    path.write_text(yaml.safe_dump(inventory))
    where = {"repository": site.repository, "host": "old", "config": str(old.config)}
    for playbook, place in (("import", "source"), ("export", "destination")):
        output = site.play(playbook, "--check", **where, **{place: str(old.storage)}).output
        (told,) = re.findall(r"Tell the command whom to believe\] \*+\n(.*?)\n\n", output, re.DOTALL)
        assert "skipping: [old]" in told
        assert ("changed: [localhost]" in told) == (playbook == "import")
    site.play("decommission", "--check", host="old").expect()
    assert "Say which host" in site.play("decommission", "--check", host="another").expect(2).output


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
    site.write_inventory(config=str(old.config), cvmfs_repositories=to_be_imported(site))
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
    run = site.play("import", repository=site.repository, source="/srv/cvmfs/software.example.org").expect(2)
    assert "Say what to import" in run.output
    assert "Say what to export" in site.play("export", repository=site.repository).expect(2).output
    run = site.play("import", repository=site.repository).expect(2)
    assert f"There is no {site.repository}.pub in {site.keys} on the controller" in run.output
    assert not site.keys.exists()
