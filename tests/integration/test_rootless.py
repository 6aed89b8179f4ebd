# SPDX-License-Identifier: GPL-3.0-or-later
"""A user without any privilege publishes with podman as well as root does.

For root, tools/with-rootless makes a user. Anybody else is such a user.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from .conftest import Site, clean
from .plays import run_tasks, secret_names
from .terminal import Terminal

pytestmark = pytest.mark.parametrize("site", ["podman"], indirect=True)


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody with a home directory and rootless podman. `program` is what runs commands as the user, if need be."""

    name: str
    program: str | None

    @property
    def home(self) -> pathlib.Path:
        return pathlib.Path(pwd.getpwnam(self.name).pw_dir)

    @property
    def uid(self) -> int:
        return pwd.getpwnam(self.name).pw_uid

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run a command as the user; its standard output."""
        command = [self.program, *arguments] if self.program else arguments
        return subprocess.run(command, check=check, cwd="/", capture_output=True, text=True).stdout


@dataclasses.dataclass
class RootlessSite(Site):
    """A site whose release manager's host is this machine, but for the user."""

    user: User = dataclasses.field(kw_only=True)

    @property
    def config(self) -> pathlib.Path:
        """Where the role puts it by default."""
        return self.user.home / ".config" / "cvmfs-publishing"

    @property
    def command(self) -> pathlib.Path:
        """Where the role installs it by default."""
        return self.user.home / ".local" / "bin" / "cvmfs-release-manager"

    def write_inventory(self, **changes: Any) -> None:
        super().write_inventory(**changes)
        path = self.directory / "inventory.yml"
        inventory = yaml.safe_load(path.read_text())
        variables = inventory["all"]["hosts"]["localhost"]
        del variables["release_manager_config_dir"], variables["release_manager_command_path"]
        host = {"ansible_python_interpreter": "/usr/bin/python3"}
        if self.user.program:
            become = {"become": True, "become_method": "ansible.builtin.su", "become_user": self.user.name}
            host |= {f"ansible_{name}": value for name, value in {**become, "become_flags": "-"}.items()}
            host["ansible_pipelining"] = True
        inventory["all"]["vars"] = {key: value for key, value in variables.items() if not key.startswith("ansible_py")}
        inventory["all"]["hosts"] = {
            "localhost": {"ansible_python_interpreter": sys.executable},
            "rootless": host,
        }
        inventory["release_managers"] = {"hosts": {"rootless": None}}
        path.write_text(yaml.safe_dump(inventory))

    def engine_command(self, *arguments: str, check: bool = True) -> str:
        return self.user.run(self.engine, *arguments, check=check)


@pytest.fixture(scope="module")
def user() -> User:
    """Somebody who is not root, with the image."""
    if os.geteuid():
        return User(getpass.getuser(), None)
    if "CVMFS_TEST_ROOTLESS" not in os.environ:
        pytest.skip("CVMFS_TEST_ROOTLESS is not set: there is no user to test with (tools/with-rootless)")
    user = User(os.environ["CVMFS_TEST_ROOTLESS_USER"], os.environ["CVMFS_TEST_ROOTLESS"])
    # What systemd does for those who log in
    settings = f"export XDG_RUNTIME_DIR=/run/user/{user.uid}\n" + 'eval "$("$HOME/container-env" "$HOME")"\n'
    (user.home / ".profile").write_text(settings)
    return user


@pytest.fixture(scope="module")
def rootless(site: Site, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RootlessSite]:
    """A site like the others, but for the user."""
    directory = tmp_path_factory.mktemp("rootless")
    (directory / "collections").symlink_to(site.directory / "collections")
    made = RootlessSite(directory, f"user-{uuid.uuid4().hex[:8]}.example.org", "podman", site.endpoint, user=user)
    made.write_inventory()
    try:
        made.play("site").expect()
        yield made
    finally:
        clean(made)


@pytest.fixture
def release(source: pathlib.Path, rootless: RootlessSite) -> Iterator[pathlib.Path]:
    """What the user wants to publish, in the user's home directory."""
    release = rootless.user.home / "release"
    shutil.copytree(source, release, symlinks=True)
    if rootless.user.program:
        subprocess.run(["chown", "-R", rootless.user.name, release], check=True)
    (release / "bin").chmod(0o700)
    yield release
    shutil.rmtree(release)


def test_site_is_idempotent(rootless: RootlessSite) -> None:
    assert rootless.play("site").expect().changed == 0
    assert len(secret_names(rootless)) == 3


def test_transaction_publish_verify(rootless: RootlessSite, release: pathlib.Path) -> None:
    item = {"source": str(release), "base_dir": "sw/1.0"}
    arguments: dict[str, Any] = {"content": [item], "transaction": "{{ result_0.transaction.id }}", "tag": "rootless"}
    common = {"config_dir": "{{ omit }}"}
    opened, published, verified, again = run_tasks(
        rootless,
        {"cvmfs_transaction": {**common, "sources": [str(release)]}},
        {"cvmfs_publish": {**common, **arguments}},
        {"cvmfs_verify": {**common, "content": [item]}},
        {"cvmfs_publish": {**common, "content": [item]}},
    )
    assert opened["changed"], opened
    assert published["changed"], published
    assert published["tag"] == "rootless"
    assert verified["compared"] > published["files"], verified
    assert verified["difference_count"] == 0
    assert not again["changed"], again
    assert not rootless.has_container()
    assert rootless.revision() == published["revision"]


def test_shell(rootless: RootlessSite) -> None:
    """The user edits the repository in place, on a terminal that is lost, and publishes from another."""
    command = [*filter(None, [rootless.user.program]), str(rootless.command)]
    with Terminal([*command, "shell", rootless.repository]) as terminal:
        terminal.expect("is writable")
        terminal.type(
            "mkdir -p by-hand/old && mv by-hand/old by-hand/new && echo kept >by-hand/new/file && echo did-$((40+2))"
        )
        terminal.expect("did-42")
    with Terminal([*command, "attach", rootless.repository]) as terminal:
        terminal.type("cat by-hand/new/file")
        terminal.expect("kept\r\n")
        terminal.type("exit")
        terminal.expect("back to the shell? ")
        terminal.type("publish by-hand")
        terminal.expect("tagged by-hand")
        assert terminal.end() == 0
    assert not rootless.has_container()
    script = f"rm -r /cvmfs/{rootless.repository}/by-hand && id -u >/cvmfs/{rootless.repository}/ran"
    printed = rootless.user.run(str(rootless.command), "run", rootless.repository, "--", "sh", "-c", script)
    assert "published revision" in printed


def test_container_is_the_users(rootless: RootlessSite, release: pathlib.Path) -> None:
    """It has no capability at all, and its root is the user: it can write nothing that the user cannot."""
    (opened,) = run_tasks(rootless, {"cvmfs_transaction": {"config_dir": "{{ omit }}", "sources": [str(release)]}})
    try:
        status = rootless.engine_command("exec", rootless.container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapBnd"], 16) == 0
        pid = int(rootless.engine_command("container", "inspect", "--format", "{{.State.Pid}}", rootless.container))
        assert pathlib.Path(f"/proc/{pid}").stat().st_uid == rootless.user.uid
    finally:
        abort = {"config_dir": "{{ omit }}", "id": opened["transaction"]["id"], "state": "aborted"}
        (aborted,) = run_tasks(rootless, {"cvmfs_transaction": abort})
    assert aborted["changed"]


def test_user_and_root_respect_each_other(site: Site, rootless: RootlessSite) -> None:
    """Two hosts, as far as podman is concerned: the one's transaction is a stranger's for the other."""
    repository = {"repository": rootless.repository, "config_dir": "{{ omit }}"}
    (opened,) = run_tasks(rootless, {"cvmfs_transaction": repository})
    other = dataclasses.replace(site, directory=rootless.directory / "other", repository=rootless.repository)
    other.directory.mkdir()
    (other.directory / "collections").symlink_to(site.directory / "collections")
    other.keys.symlink_to(rootless.keys)
    other.write_inventory()
    identity = opened["transaction"]["id"]
    try:
        other.play("site").expect()
        tried, published, aborted = run_tasks(
            other,
            {"cvmfs_transaction": {}},
            {"cvmfs_publish": {"delete": ["x"], "transaction": identity}},
            {"cvmfs_transaction": {"id": identity, "state": "aborted"}},
        )
        assert "has a transaction open" in tried["msg"]
        assert f"Transaction {identity} is not open on" in published["msg"]
        assert not aborted["changed"]
        assert not other.has_container()
    finally:
        mine = {**repository, "id": identity, "state": "aborted"}
        (ended,) = run_tasks(rootless, {"cvmfs_transaction": mine})
        other.module("cvmfs_secret", repository=other.repository, state="absent")
    assert ended["changed"]  # it was still there
