# SPDX-License-Identifier: GPL-3.0-or-later
"""Service users have the image that root has, and nothing is left of copies, whenever a run is broken off."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator

import pytest
import yaml

from . import breaking_off
from .conftest import Run, Site
from .hosts import write_play

pytestmark = pytest.mark.roles

TITLE = "org.opencontainers.image.title=cvmfs-release-manager"


class Host:
    """This machine, where a user of rootless podman stands for a service user."""

    def __init__(self, directory: pathlib.Path, homes: pathlib.Path) -> None:
        self.site, self.homes = Site.without_storage(directory), homes
        self.user, self.program = (os.environ[f"CVMFS_TEST_ROOTLESS{suffix}"] for suffix in ("_USER", ""))
        self.image = f"localhost/cvmfs-test-{uuid.uuid4().hex[:8]}:native"
        self.playbook = write_play(directory, "{{ 'image_absent' if is_removal | default(false) else 'image' }}")
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "release_manager_image": self.image,
        }
        inventory = {"release_managers": {"hosts": {"localhost": variables}}}
        (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
        # What the role finds out about a service user that systemd keeps a session for
        self.found = {
            "_release_manager_account": self.user,
            "_release_manager_as_account": [self.program],
            "_release_manager_homes": str(homes),
        }

    def build(self, content: str) -> str:
        """Have root build another image; return its ID."""
        recipe = f"FROM scratch\nLABEL {TITLE} name={self.image} content={content}\n"
        build = ["podman", "build", "--quiet", f"--tag={self.image}", "--file=-"]
        done = subprocess.run(build, input=recipe, check=True, capture_output=True, text=True)
        return done.stdout.strip().rpartition(":")[2]

    def play(self, *options: str) -> Run:
        return self.site.play(self.playbook, *options, **self.found)

    def remove(self, *options: str) -> Run:
        """Have the role take away what it has brought."""
        return self.site.play(self.playbook, *options, **self.found, is_removal=True)

    def break_off(self) -> breaking_off.Run:
        """Break a run off after its first change."""
        variables = ["--extra-vars", json.dumps(self.found)]
        command = ["ansible-playbook", "-i", "inventory.yml", f"{self.playbook}.yml", *variables]
        return breaking_off.run(command, directory=self.site.directory, environment=self.site.environment, after=1)

    def images(self) -> list[str]:
        """The IDs of the images that the user has of those that were built here, whatever they are called now."""
        command = [self.program, "podman", "images", "--no-trunc", "--quiet", f"--filter=label=name={self.image}"]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        return [line.rpartition(":")[2] for line in found.stdout.split()]


@pytest.fixture
def host(tmp_path: pathlib.Path) -> Iterator[Host]:
    if "CVMFS_TEST_ROOTLESS" not in os.environ:
        pytest.skip("CVMFS_TEST_ROOTLESS is not set: there is no user to test with (tools/with-rootless)")
    with contextlib.ExitStack() as stack:
        homes = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))  # users cannot get to tmp_path
        stack.callback(shutil.rmtree, homes)
        homes.chmod(0o755)
        host = Host(tmp_path, homes)
        stack.callback(subprocess.run, ["podman", "image", "rm", host.image], check=False, capture_output=True)
        yield host


def test_the_user_gets_the_image_that_root_has(host: Host) -> None:
    assert "has an image" in host.play().expect(2).output
    first = host.build("first")
    assert host.play("--check").expect().changed == 1
    assert host.images() == []
    assert host.play().expect().changed == 1
    assert host.images() == [first]
    assert host.play().expect().changed == 0
    second = host.build("second")
    assert host.play("--check").expect().changed == 1
    assert host.images() == [first]
    assert host.play().expect().changed == 1
    assert host.images() == [second]
    assert list(host.homes.iterdir()) == []


def test_nothing_is_left_of_a_copy_that_was_broken_off(host: Host) -> None:
    before = host.build("before")
    assert host.play().expect().changed == 1
    image = host.build("any")
    assert host.break_off().rc == -signal.SIGKILL
    assert list(host.homes.rglob("*.tar"))  # so it was in the middle of it
    assert sorted(host.images()) == sorted([before, image])
    assert host.play("--check").expect().changed == 1
    assert host.play().expect().changed == 1
    assert host.images() == [image]
    assert list(host.homes.iterdir()) == []
    assert host.play().expect().changed == 0


def test_nothing_is_left_of_images_when_the_user_stays(host: Host) -> None:
    before = host.build("before")
    assert host.play().expect().changed == 1
    image = host.build("any")
    assert host.break_off().rc == -signal.SIGKILL
    assert host.remove("--check").expect().changed == 1
    assert sorted(host.images()) == sorted([before, image])
    assert host.remove().expect().changed == 1
    assert host.images() == []
    assert host.remove().expect().changed == 0
