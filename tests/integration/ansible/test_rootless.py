# SPDX-License-Identifier: GPL-3.0-or-later
"""A user without any privilege publishes with podman as well as root does.

Root makes a user for the test, who is gone afterwards. Anybody else is such a user.
"""

from __future__ import annotations

import contextlib
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
from conftest import IMAGE, ROOT, Site, _clean
from plays import run_tasks, secret_names

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody with a home directory and rootless podman."""

    name: str

    @property
    def home(self) -> pathlib.Path:
        return pathlib.Path(pwd.getpwnam(self.name).pw_dir)

    @property
    def runtime_directory(self) -> pathlib.Path:
        return pathlib.Path("/run/user", str(pwd.getpwnam(self.name).pw_uid))

    @property
    def is_myself(self) -> bool:
        return getpass.getuser() == self.name

    def command(self, *arguments: str) -> list[str]:
        """Return what runs a command as the user, in an environment as a login makes it."""
        return list(arguments) if self.is_myself else ["su", "-", self.name, "-c", 'exec "$@"', "--", "sh", *arguments]

    def run(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """Run a command as the user; its standard output."""
        options = {"stdout": subprocess.PIPE, **options}
        done = subprocess.run(self.command(*arguments), check=check, cwd="/", text=True, **options)
        return str(done.stdout)


@dataclasses.dataclass
class RootlessSite(Site):
    """A site whose release manager's host is this machine, but for the user."""

    user: User = dataclasses.field(kw_only=True)

    @property
    def config(self) -> pathlib.Path:
        """Where the role puts it by default."""
        return self.user.home / ".config" / "cvmfs-publishing"

    def write_inventory(self, **changes: Any) -> None:
        super().write_inventory(**changes)
        path = self.directory / "inventory.yml"
        inventory = yaml.safe_load(path.read_text())
        variables = inventory["all"]["hosts"]["localhost"]
        del variables["release_manager_config_dir"]
        host = {"ansible_python_interpreter": "/usr/bin/python3"}
        if not self.user.is_myself:
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
def user() -> Iterator[User]:
    """Root makes a user, with the image, and such a login as systemd would make it."""
    if os.geteuid():
        yield User(getpass.getuser())
        return
    user = User(f"cvmfs-test-{uuid.uuid4().hex[:8]}")
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", user.name], check=True)
    try:
        with devices_for_everybody():
            shutil.chown(_made(user.runtime_directory), user.name)
            settings = user.run(
                "bash", "-s", str(user.home / ".containers"), input=(ROOT / "tools/container-env").read_text()
            )
            profile = f"PATH={SYSTEM_PATH}\nexport XDG_RUNTIME_DIR={user.runtime_directory}\n{settings}"
            (user.home / ".profile").write_text(profile)
            with subprocess.Popen(["podman", "save", IMAGE], stdout=subprocess.PIPE) as save:
                user.run("podman", "load", "--quiet", stdin=save.stdout)
            yield user
    finally:
        user.run("podman", "system", "migrate", check=False)  # ends the process that holds the user's namespace
        shutil.rmtree(user.runtime_directory, ignore_errors=True)
        subprocess.run(["userdel", "--remove", "--force", user.name], check=False, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def devices_for_everybody() -> Iterator[None]:
    """Rootless podman may need what udev usually lets everybody use."""
    found = {path: path.stat().st_mode for path in map(pathlib.Path, ("/dev/fuse", "/dev/net/tun")) if path.exists()}
    for path in found:
        path.chmod(0o666)
    yield
    for path, mode in found.items():
        path.chmod(mode)


@pytest.fixture(scope="module")
def rootless(site: Site, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RootlessSite]:
    """A site like the others, but for the user."""
    if site.engine != "podman":
        pytest.skip("about podman")
    directory = tmp_path_factory.mktemp("rootless")
    (directory / "collections").symlink_to(site.directory / "collections")
    names = ("endpoint", "access_key", "secret_key")
    common = {name: getattr(site, name) for name in names}
    made = RootlessSite(directory, f"user-{uuid.uuid4().hex[:8]}.example.org", "podman", **common, user=user)
    made.write_inventory()
    try:
        made.play("site").expect()
        yield made
    finally:
        _clean(made)


@pytest.fixture
def release(source: pathlib.Path, rootless: RootlessSite) -> Iterator[pathlib.Path]:
    """What the user wants to publish, in the user's home directory."""
    release = rootless.user.home / "release"
    shutil.copytree(source, release, symlinks=True)
    if not rootless.user.is_myself:
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


def test_container_is_the_users(rootless: RootlessSite, release: pathlib.Path) -> None:
    """It has no capability at all, and its root is the user: it can write nothing that the user cannot."""
    (opened,) = run_tasks(rootless, {"cvmfs_transaction": {"config_dir": "{{ omit }}", "sources": [str(release)]}})
    try:
        status = rootless.engine_command("exec", rootless.container, "cat", "/proc/self/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(fields["CapBnd"], 16) == 0
        pid = int(rootless.engine_command("container", "inspect", "--format", "{{.State.Pid}}", rootless.container))
        assert pathlib.Path(f"/proc/{pid}").stat().st_uid == pwd.getpwnam(rootless.user.name).pw_uid
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


def _made(directory: pathlib.Path) -> pathlib.Path:
    directory.mkdir(mode=0o700, parents=True)
    return directory
