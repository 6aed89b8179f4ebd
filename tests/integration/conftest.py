# SPDX-License-Identifier: GPL-3.0-or-later
"""A site of one machine, with a repository of its own, on real S3 storage and a real container engine.

The environment says where the storage is; without it, there is nothing to test against:

    CVMFS_TEST_S3_ENDPOINT    as tools/with-ceph sets it
    CVMFS_TEST_CEPH           the container in which radosgw-admin makes users for the tests
    CVMFS_TEST_IMAGE          the release manager's image, if it is another than `make images` makes
    CVMFS_TEST_DOCKER=1       docker is there, as tools/with-docker provides it
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of the Ceph that tools/with-ceph has started
RADOSGW_ADMIN = ["podman", "exec", os.environ.get("CVMFS_TEST_CEPH", ""), "radosgw-admin"]
IMAGE = os.environ.get("CVMFS_TEST_IMAGE", "localhost/cvmfs-release-manager:native")
ENGINES = ["podman", pytest.param("docker", marks=pytest.mark.docker)]


@dataclasses.dataclass
class Run:
    """An `ansible-playbook` or `ansible` that has ended."""

    rc: int
    output: str

    @property
    def changed(self) -> int:
        """The number of changed tasks, of the recap."""
        return int(re.search(r"changed=(\d+)", self.output)[1])  # type: ignore[index]

    def expect(self, rc: int = 0) -> Run:
        """Fail with the output if the exit code is another."""
        assert self.rc == rc, self.output
        return self


@dataclasses.dataclass
class Site:
    """The site, and what one does with it."""

    directory: pathlib.Path
    repository: str
    engine: str
    endpoint: str
    s3: dict[str, Any] = dataclasses.field(default_factory=dict)
    "What is said about the storage besides endpoint and bucket."
    server: dict[str, Any] = dataclasses.field(default_factory=dict)
    "What is said in server.conf besides the defaults."

    @classmethod
    def without_storage(cls, directory: pathlib.Path) -> Site:
        """Return a site that has no hosts yet, and nothing to do with the storage."""
        _link_collection(directory)
        (directory / "ansible.cfg").touch()  # none of the user's
        (directory / "inventory.yml").write_text("all: {}\n")
        return cls(directory, "software.example.org", "podman", "http://127.0.0.1:9")

    @property
    def access_key(self) -> str:
        """What the repository's own user of the storage is called by, once the role has made it."""
        return self._s3_settings["CVMFS_S3_ACCESS_KEY"]

    @property
    def secret_key(self) -> str:
        """The password of that user."""
        return self._s3_settings["CVMFS_S3_SECRET_KEY"]

    def owner_keys(self) -> dict[str, str]:
        """The keys of the bucket's owner, which are kept nowhere but in the storage."""
        command = [*RADOSGW_ADMIN, "user", "info", f"--uid=cvmfs-{self.repository}"]
        (key,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["keys"]
        return {name: key[name] for name in ("access_key", "secret_key")}

    @property
    def _s3_settings(self) -> dict[str, str]:
        words = shlex.split((self.keys / f"{self.repository}.s3.conf").read_text(), comments=True)
        return dict(word.split("=", 1) for word in words)

    @property
    def url(self) -> str:
        """Where everybody can read the repository."""
        return f"{self.endpoint}/{self.repository}/{self.repository}"

    @property
    def container(self) -> str:
        """The name of the release manager's container."""
        return f"cvmfs-{self.repository}"

    @property
    def docker_secrets(self) -> pathlib.Path:
        """Where docker's secrets are on this machine."""
        places = [pathlib.Path(path) for path in ("/run/cvmfs-publishing/secrets", "/dev/shm/cvmfs-publishing-0")]  # noqa: S108
        kinds = subprocess.run(["stat", "-f", "-c", "%T %n", *places], check=False, capture_output=True, text=True)
        return next(pathlib.Path(line.split(" ")[1]) for line in kinds.stdout.splitlines() if line.startswith("tmpfs "))

    @property
    def config(self) -> pathlib.Path:
        """What the role leaves on the host."""
        return self.directory / "config"

    @property
    def command(self) -> pathlib.Path:
        """Where the role installs the command for people."""
        return self.directory / "bin" / "cvmfs-release-manager"

    @property
    def keys(self) -> pathlib.Path:
        """What the controller keeps."""
        return self.directory / "keys"

    def write_inventory(self, **changes: Any) -> None:
        """Write the inventory; `changes` are further variables."""
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "cvmfs_keys_dir": str(self.keys),
            "cvmfs_repositories": {
                self.repository: {
                    "s3": {"endpoint": self.endpoint, "bucket": self.repository, **self.s3},
                    "server": self.server,
                }
            },
            "s3_storage_radosgw_admin": RADOSGW_ADMIN,
            "release_manager_command_path": str(self.command),
            "release_manager_config_dir": str(self.config),
            "release_manager_engine": self.engine,
            "release_manager_image": IMAGE,
            "release_manager_install_engine": False,
            "release_manager_network": "host",
            **changes,
        }
        groups = {name: {"hosts": {"localhost": None}} for name in ("s3_storage", "release_managers")}
        inventory = {"all": {"hosts": {"localhost": variables}}, **groups}
        (self.directory / "ansible.cfg").touch()  # none of the user's
        (self.directory / "inventory.yml").write_text(yaml.safe_dump(inventory))

    @contextlib.contextmanager
    def first_host_away(self) -> Iterator[str]:
        """Have one more release manager's host, the first of them, which cannot be reached; its name."""
        path = self.directory / "inventory.yml"
        before = path.read_text()
        inventory = yaml.safe_load(before)
        away = {**inventory["all"]["hosts"]["localhost"], "ansible_connection": "ssh", "ansible_host": "127.0.0.1"}
        away["ansible_ssh_executable"] = "/bin/false"
        inventory["all"]["hosts"]["away"] = away
        inventory["release_managers"]["hosts"] = {"away": None, **inventory["release_managers"]["hosts"]}
        path.write_text(yaml.safe_dump(inventory, sort_keys=False))
        try:
            yield "away"
        finally:
            path.write_text(before)

    def play(self, playbook: str, *options: str, **variables: Any) -> Run:
        """Run a playbook of the collection with variables, which the command line shows."""
        command = ["ansible-playbook", "-i", "inventory.yml", str(ROOT / "playbooks" / f"{playbook}.yml"), *options]
        return self._run([*command, "--extra-vars", json.dumps(variables)])

    def module(self, name: str, *options: str, **arguments: Any) -> dict[str, Any]:
        """Run a module, and return its result."""
        command = ["ansible", "-i", "inventory.yml", "localhost", "-o", "-m", f"cvmfs.publishing.{name}", *options]
        output = self._run([*command, "-a", json.dumps(arguments)]).output
        match = re.search(r"(?:\||=>) (\{.*\})", output)
        assert match is not None, output
        return {"failed": "| FAILED!" in output, **json.loads(match[1])}

    def manager(self, name: str, *options: str, **arguments: Any) -> dict[str, Any]:
        """Run a module that works with the release manager."""
        common = {"repository": self.repository, "config_dir": str(self.config)}
        return self.module(name, *options, **common, **arguments)

    def publish(self, source: pathlib.Path, base_dir: str, *options: str, **variables: Any) -> Run:
        """Run the playbook publish.yml."""
        everything = {"repository": self.repository, "source": str(source), "base_dir": base_dir, **variables}
        return self.play("publish", *options, **everything)

    def verify(self, source: pathlib.Path, base_dir: str) -> Run:
        """Run the playbook verify.yml."""
        return self.play("verify", repository=self.repository, source=str(source), base_dir=base_dir)

    def resign(self, *options: str) -> Run:
        """Have the whitelist signed for longer than it is valid already."""
        left = math.ceil(self.manager("cvmfs_repository_info")["whitelist"]["days_left"])
        return self.play("resign", *options, min_days=left + 1, days=left + 30)

    def revision(self) -> int:
        """The newest revision, as everybody sees it."""
        with urllib.request.urlopen(f"{self.url}/.cvmfspublished") as response:  # noqa: S310
            return int(re.search(rb"^S(\d+)$", response.read(), re.MULTILINE)[1])  # type: ignore[index]

    def engine_command(self, *arguments: str, check: bool = True) -> str:
        """Run a command of the engine."""
        command = [self.engine, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True).stdout

    def has_container(self) -> bool:
        """Whether the release manager's container is there."""
        names = self.engine_command("ps", "--all", "--format", "{{.Names}}").split()
        return self.container in names

    def secrets(self) -> list[str]:
        """Everything that must never be seen: the S3 key and a line of each private key."""
        found = [self.secret_key]
        for suffix in ("masterkey", "key"):
            found.append((self.keys / f"{self.repository}.{suffix}").read_text().splitlines()[5])
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What Ansible's commands need to know in this site."""
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def _run(self, command: list[str]) -> Run:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, check=False, text=True, capture_output=True, timeout=600
        )
        return Run(done.returncode, done.stdout + done.stderr)


def _link_collection(directory: pathlib.Path) -> None:
    """Make the checkout known under the collection's name."""
    link = directory / "collections" / "ansible_collections" / "cvmfs" / "publishing"
    link.parent.mkdir(parents=True)
    link.symlink_to(ROOT)


@contextlib.contextmanager
def running_site(
    directory: pathlib.Path,
    engine: str,
    *,
    repository: str | None = None,
    endpoint: str | None = None,
    s3: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    is_created: bool = True,
    **variables: Any,
) -> Iterator[Site]:
    """Have a site with an empty repository, for as long as the context lasts; with none unless it `is_created`.

    `repository` is its name, by default a new one, `endpoint` is the storage by another way, `s3` what is said about
    it besides, `server` is for server.conf, and `variables` are for the inventory.
    """
    if "CVMFS_TEST_S3_ENDPOINT" not in os.environ:
        pytest.skip("CVMFS_TEST_S3_ENDPOINT is not set: there is no S3 storage to test with")
    if engine == "docker" and "CVMFS_TEST_DOCKER" not in os.environ:
        pytest.skip("CVMFS_TEST_DOCKER is not set: there is no docker to test with")
    _have_image(engine)
    _link_collection(directory)
    repository = repository or f"test-{uuid.uuid4().hex[:12]}.example.org"
    site = Site(directory, repository, engine, endpoint or os.environ["CVMFS_TEST_S3_ENDPOINT"], s3 or {}, server or {})
    site.write_inventory(**variables)
    try:
        if is_created:
            site.play("site").expect()
        yield site
    finally:
        clean(site)


@pytest.fixture(scope="session", params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with a repository, which the tests share."""
    with running_site(tmp_path_factory.mktemp("site"), request.param, server={"CVMFS_REPOSITORY_TTL": 120}) as site:
        yield site


def _have_image(engine: str) -> None:
    """docker gets the image that podman has."""
    if (
        engine == "docker"
        and subprocess.run(["docker", "image", "inspect", IMAGE], check=False, capture_output=True).returncode
    ):
        with subprocess.Popen(["podman", "save", IMAGE], stdout=subprocess.PIPE) as save:
            subprocess.run(["docker", "load"], check=True, stdin=save.stdout, stdout=subprocess.DEVNULL)


def clean(site: Site) -> None:
    """Remove what a site has made: its container, its secrets, its user of the storage with all that is stored."""
    site.engine_command("rm", "-f", "-v", site.container, check=False)
    site.module("cvmfs_secret", repository=site.repository, engine=site.engine, state="absent")
    for uid in (f"cvmfs-{site.repository}", f"cvmfs-{site.repository}-publisher"):
        remove = ["user", "rm", f"--uid={uid}", "--purge-data"]
        subprocess.run([*RADOSGW_ADMIN, *remove], check=False, capture_output=True)


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small release: files, directories, links of both kinds, odd names."""
    root = tmp_path / "release"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\necho tool\n")
    (root / "bin" / "tool").chmod(0o755)
    (root / "bin" / "other-name").hardlink_to(root / "bin" / "tool")
    (root / "bin" / "link").symlink_to("tool")
    (root / "empty").touch()
    (root / "line\nbreak").write_text("a")
    pathlib.Path(os.fsdecode(os.fsencode(root) + b"/latin-\xe9")).write_text("b")
    (root / "big").write_bytes(os.urandom(9 << 20))
    return root


@pytest.fixture
def tarball(source: pathlib.Path) -> pathlib.Path:
    """The same as a compressed tar file."""
    return pathlib.Path(shutil.make_archive(str(source.parent / "release-2"), "gztar", source))
