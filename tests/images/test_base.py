# SPDX-License-Identifier: GPL-3.0-or-later
"""The Debian base image."""

from __future__ import annotations

import json
import pathlib
import subprocess

from conftest import BASE, CHECKOUT, Engine

BUILD = CHECKOUT / "images/base/build"
AUTHORITIES = list(pathlib.Path("/usr/local/share/ca-certificates").glob("*.crt"))


def labels(podman: Engine, image: str) -> dict[str, str]:
    return dict(json.loads(podman.output("image", "inspect", "--format", "{{json .Config.Labels}}", image)))


def test_is_built_once(podman: Engine) -> None:
    before = podman.output("image", "inspect", "--format", "{{.Id}}", BASE)
    printed = subprocess.run([BUILD, "--tag", BASE], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == f"{BASE} is up to date"
    assert podman.output("image", "inspect", "--format", "{{.Id}}", BASE) == before


def test_is_built_again_for_another_recipe() -> None:
    """Another mirror is another recipe: the image is not taken for up to date (and here cannot be built)."""
    build = subprocess.run(
        [BUILD, "--tag", BASE, "--mirror", "file:///nonexistent"], check=False, capture_output=True, text=True
    )
    assert build.returncode != 0
    assert "up to date" not in build.stdout


def test_is_reproducible(podman: Engine) -> None:
    """The same packages give the same layer, byte for byte."""
    image = f"localhost/{podman.prefix}-base:1"
    query = ["dpkg-query", "--show"]
    made = []
    try:
        subprocess.run([BUILD, "--tag", image], check=True, capture_output=True)
        made.append(podman.output("image", "inspect", "--format", "{{.Id}}", image))
        reference = BASE
        if podman.run(image, *query) != podman.run(BASE, *query):  # the archive has moved on since
            reference = made[0]
            subprocess.run([BUILD, "--tag", image, "--refresh"], check=True, capture_output=True)
            made.append(podman.output("image", "inspect", "--format", "{{.Id}}", image))
        layers = podman.output("image", "inspect", "--format", "{{json .RootFS.Layers}}", reference, image).split()
    finally:
        for image_id in made:
            podman("rmi", image_id, check=False)
    assert layers[0] == layers[1]


def test_admits_local_certificate_authorities(podman: Engine) -> None:
    """An image with the host's own authorities says so; without any, there is neither label nor certificate."""
    assert labels(podman, BASE).get("io.cvmfs.publishing.local-authorities", "0") == str(len(AUTHORITIES))
    inside = podman.run(BASE, "find", "/usr/local/share/ca-certificates", "-type", "f")
    assert len(inside.split()) == len(AUTHORITIES)


def test_is_small_and_has_no_privileged_programs(podman: Engine) -> None:
    assert int(podman.output("image", "inspect", "--format", "{{.Size}}", BASE)) < 120e6
    assert podman.run(BASE, "find", "/", "-xdev", "-type", "f", "-perm", "/6000") == ""
    assert podman.run(BASE, "find", "/var/lib/apt/lists", "/var/cache/apt", "-type", "f", "-size", "+1k") == ""
