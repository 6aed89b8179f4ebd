# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""What the verifier's tests know: the scenario's inventory, the host, and the URL that everybody can read."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import typing as t

import pytest
import testinfra
from reader import PublishedTree
from testinfra.utils.ansible_runner import AnsibleRunner

EPHEMERAL = pathlib.Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
INVENTORY = os.path.join(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "inventory")
GROUP = "release_managers"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What the inventory says."""

    instance: str
    variables: dict[str, t.Any]

    @property
    def repository(self) -> str:
        return str(self.variables["repository"])

    @property
    def user(self) -> str | None:
        """Whose the containers are, if not root's."""
        found: str | None = self.variables["cvmfs_repositories"][self.repository].get("user")
        return found

    def engine(self, host: testinfra.host.Host, *arguments: str) -> str:
        """Run a command of the container engine, whoever's it is; its standard output."""
        words = [self.engine_name, *arguments]
        if self.user is not None:
            uid = host.user(self.user).uid
            session = ["env", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
            words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "--reset-env", *session, *words]
        return str(host.check_output(" ".join(["cd / &&", *map(shlex.quote, words)])))

    def secret_names(self, host: testinfra.host.Host) -> list[str]:
        """What the engine's secrets are called. docker has none: there they are files."""
        if self.engine_name == "docker":
            return list(host.file(self.store).listdir())
        return self.engine(host, "secret", "ls", "--format", "{{.Name}}").split()

    @property
    def store(self) -> str:
        """Where secrets are on the host."""
        return "/run/cvmfs-publishing/secrets/" if self.engine_name == "docker" else f"{self._storage}/secrets/"

    @property
    def shown(self) -> str:
        """Where the engine has the files that it shows to a container that runs."""
        return self.store if self.engine_name == "docker" else f"{self._storage}/overlay-containers/"

    @property
    def engine_name(self) -> str:
        return str(self.variables.get("release_manager_engine", "podman"))

    @property
    def _storage(self) -> str:
        home = f"/var/lib/cvmfs-publishing/{self.user}/.local/share" if self.user else "/var/lib"
        return f"{home}/containers/storage"

    @property
    def url(self) -> str:
        """Where everybody can read the repository."""
        bucket = self.variables["cvmfs_repositories"][self.repository]["s3"]["bucket"]
        return f"{os.environ['CVMFS_TEST_S3_ENDPOINT']}/{bucket}/{self.repository}"

    def key(self, suffix: str) -> str:
        """A file that the controller keeps for the repository."""
        return (EPHEMERAL / "keys" / f"{self.repository}.{suffix}").read_text()

    def secrets(self) -> dict[str, str]:
        """What nobody else may find: telling pieces of the private keys, and the password of the object storage."""
        settings = dict(line.split("=", 1) for line in self.key("s3.conf").splitlines() if "=" in line)
        found = {"S3 secret": settings["CVMFS_S3_SECRET_KEY"]}
        for suffix in ("key", "masterkey"):
            lines = self.key(suffix).splitlines()
            found[suffix] = lines[len(lines) // 2]
        return found

    def module(self, name: str, **arguments: t.Any) -> dict[str, t.Any]:
        """Run a module of the collection on the host, as a playbook would; return its result."""
        # The one-line output is JSON, whatever the settings say.
        command = ["ansible", "-i", INVENTORY, "--one-line", "-m", f"cvmfs.publishing.{name}"]
        process = subprocess.run(
            [*command, "-a", json.dumps(arguments), GROUP],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "ANSIBLE_FORCE_COLOR": "0"},
        )
        line = next((line for line in process.stdout.splitlines() if " => " in line), "")
        assert line, process.stdout + process.stderr
        return json.loads(line.partition(" => ")[2])


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    runner = AnsibleRunner(INVENTORY)
    (instance,) = runner.get_hosts(GROUP)
    return Scenario(instance, runner.get_variables(instance))


@pytest.fixture(scope="session")
def host(scenario: Scenario) -> testinfra.host.Host:
    """The release manager's host, without Ansible in between."""
    return testinfra.get_host(f"podman://{scenario.instance}")


@pytest.fixture(scope="session")
def published(scenario: Scenario) -> PublishedTree:
    """The newest revision, as everybody can read it."""
    return PublishedTree(scenario.url)
