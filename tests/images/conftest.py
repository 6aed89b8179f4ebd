# SPDX-License-Identifier: GPL-3.0-or-later
"""Container engines for the tests of the images.

They are podman, podman of an ordinary user (``tools/with-rootless``), and docker (``tools/with-docker``). Everything
a test makes carries its own name and goes again.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator

import pytest

CHECKOUT = pathlib.Path(__file__).parents[2]
BASE = "localhost/cvmfs-debian-base:trixie"
RELEASE_MANAGER = "localhost/cvmfs-release-manager:native"
CEPH = "localhost/cvmfs-ceph:trixie"
# How a release manager is run: nothing writable but /tmp and the scratch volume, no capabilities.
CONFINED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]  # noqa: S108


def pytest_configure() -> None:
    """Make podman fit for this machine."""
    command = [CHECKOUT / "tools/container-env", CHECKOUT / "build"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        name, value = line.removeprefix("export ").split("=", 1)
        os.environ[name] = shlex.split(value)[0]


@dataclasses.dataclass(frozen=True)
class Engine:
    """A container engine's command line."""

    command: tuple[str, ...]
    prefix: str
    "Begins the name of every container, volume and image that a test makes."
    user: str = "root"
    "Whose engine it is."

    @property
    def is_docker(self) -> bool:
        """Whether it is docker's command line and not podman's."""
        return self.command[-1] == "docker"

    def __call__(self, *arguments: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the engine's command; what it prints is returned."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [*self.command, *arguments], check=check, capture_output=True, text=True, **options
        )

    def output(self, *arguments: str, **options: object) -> str:
        """Run the engine's command, which must succeed; its standard output."""
        process = self(*arguments, check=False, **options)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    def run(self, *arguments: str) -> str:
        """Run a container to its end and remove it; its standard output."""
        return self.output("run", "--rm", "--network", "none", *arguments)


def an_engine(*command: str, user: str = "root") -> Engine:
    return Engine(command, f"cvmfs-test-{secrets.token_hex(4)}", user)


@pytest.fixture(params=["podman", "rootless", "docker"], scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine, with the images in it; containers of the tests are removed in the end."""
    if request.param == "docker":
        if not os.environ.get("CVMFS_TEST_DOCKER"):
            pytest.skip("no docker: run under tools/with-docker")
        engine = an_engine("docker")
        # The very images that podman built: docker gets no others.
        for image in (BASE, RELEASE_MANAGER):
            with subprocess.Popen(["podman", "save", "--quiet", image], stdout=subprocess.PIPE) as saved:
                subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
    elif request.param == "rootless":
        if not os.environ.get("CVMFS_TEST_ROOTLESS"):
            pytest.skip("no rootless podman: run under tools/with-rootless")
        engine = an_engine(os.environ["CVMFS_TEST_ROOTLESS"], "podman", user=os.environ["CVMFS_TEST_ROOTLESS_USER"])
    else:
        engine = an_engine("podman")
    yield engine
    for name in engine.output("container", "ls", "--all", "--format", "{{.Names}}").splitlines():
        if engine.prefix in name:
            engine("container", "rm", "--force", "--volumes", name)
    for name in engine.output("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        if engine.prefix in name:
            engine("image", "rm", "--force", name)


@pytest.fixture(scope="session")
def podman() -> Engine:
    """Podman alone, for what is the same for all engines."""
    return an_engine("podman")


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the checkout, for tools that write into it; what git ignores is left out."""
    files = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (CHECKOUT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, tmp_path / name)
    return tmp_path
