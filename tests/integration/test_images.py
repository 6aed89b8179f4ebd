# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images, as podman makes and saves them, are published as what their containers see."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import Site

pytestmark = pytest.mark.roles

IMAGE = "localhost/cvmfs-test-publishing-images"


def podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of two layers, the second of which changes, replaces and removes what the first one has."""
    directory = tmp_path_factory.mktemp("context")
    for name in ("kept", "changed", "removed", "tree/deep/file", "opaque/lower"):
        (directory / "lower" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "lower" / name).write_text(f"{name} of the lower layer")
    (directory / "lower/link").symlink_to("kept")
    (directory / "lower/kept").chmod(0o755)
    (directory / "Containerfile").write_text("FROM scratch\nCOPY lower /\n")
    podman("build", "--quiet", "--tag", f"{IMAGE}:lower", str(directory))
    container = podman("create", f"{IMAGE}:lower", "/none")
    try:
        root = pathlib.Path(podman("mount", container))
        (root / "changed").write_text("of the upper layer")
        (root / "removed").unlink()
        subprocess.run(["rm", "-r", root / "tree", root / "opaque"], check=True)
        (root / "opaque").mkdir()
        (root / "opaque/upper").write_text("upper")
        (root / "tree").write_text("a file now")
        (root / "twice").hardlink_to(root / "changed")
        podman("umount", container)
        podman("commit", "--quiet", container, f"{IMAGE}:upper")
    finally:
        podman("rm", container)
    yield f"{IMAGE}:upper"
    podman("rmi", f"{IMAGE}:upper", f"{IMAGE}:lower")


@pytest.mark.parametrize("site", ["podman"], indirect=True)
def test_images_of_podman(site: Site, image: str, tmp_path: pathlib.Path) -> None:
    root = pathlib.Path(podman("image", "mount", image))
    try:
        for form in ("oci-dir", "oci-archive", "docker-archive"):
            source = tmp_path / form
            podman("save", "--quiet", "--format", form, "--output", str(source), image)
            content = [{"source": str(source), "image": True, "base_dir": form}]
            published = site.manager("cvmfs_publish", content=content)
            assert not published["failed"], published
            verified = site.manager("cvmfs_verify", content=[{"source": str(root), "base_dir": form}])
            # An image says nothing about the root directory itself
            assert {item["path"] for item in verified["differences"]} == {f"/{form}"}, verified
            assert verified["compared"] == 8
            assert not site.manager("cvmfs_publish", content=content)["changed"]
    finally:
        podman("image", "umount", image)
