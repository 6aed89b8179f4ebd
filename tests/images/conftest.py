# SPDX-License-Identifier: GPL-3.0-or-later
"""Container engines for the tests of the images.

Everything a test makes carries its own name and goes again. Tests with docker run under ``tools/with-docker``.
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


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known by which ``make test-docker`` selects, and podman fit for this machine."""
    config.addinivalue_line("markers", "docker: needs a docker daemon (tools/with-docker)")
    command = [CHECKOUT / "tools/container-env", CHECKOUT / "build"]
    for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
        name, value = line.removeprefix("export ").split("=", 1)
        os.environ[name] = shlex.split(value)[0]


@dataclasses.dataclass(frozen=True)
class Engine:
    """A container engine's command line."""

    name: str
    prefix: str
    "Begins the name of every container, volume and image that a test makes."

    def __call__(self, *arguments: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the engine's command; what it prints is returned."""
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            [self.name, *arguments], check=check, capture_output=True, text=True, **options
        )

    def output(self, *arguments: str) -> str:
        """Run the engine's command, which must succeed; its standard output."""
        process = self(*arguments, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout.strip()

    def run(self, *arguments: str) -> str:
        """Run a container to its end and remove it; its standard output."""
        return self.output("run", "--rm", *arguments)


@pytest.fixture(params=["podman", pytest.param("docker", marks=pytest.mark.docker)], scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each engine, with the images in it; containers of the tests are removed in the end."""
    if request.param == "docker" and not os.environ.get("CVMFS_TEST_DOCKER"):
        pytest.skip("no docker: run under tools/with-docker")
    engine = Engine(request.param, f"cvmfs-test-{secrets.token_hex(4)}")
    if engine.name == "docker":
        # The very images that podman built: docker gets no others.
        for image in (BASE, RELEASE_MANAGER):
            with subprocess.Popen(["podman", "save", "--quiet", image], stdout=subprocess.PIPE) as saved:
                subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
    yield engine
    for name in engine.output("container", "ls", "--all", "--format", "{{.Names}}").splitlines():
        if engine.prefix in name:
            engine("container", "rm", "--force", name)
    for name in engine.output("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
        if engine.prefix in name:
            engine("image", "rm", "--force", name)


@pytest.fixture(scope="session")
def podman() -> Engine:
    """Podman alone, for what is the same for all engines."""
    return Engine("podman", f"cvmfs-test-{secrets.token_hex(4)}")


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
