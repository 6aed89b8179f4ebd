# SPDX-License-Identifier: GPL-3.0-or-later
"""A host builds the release manager's image itself, out of the collection as ansible-galaxy installs it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator

import pytest

from .conftest import ENGINES, ROOT, Site, running_site

pytestmark = pytest.mark.roles


@pytest.fixture
def image() -> str:
    """The name of an image that nobody else has."""
    return f"localhost/cvmfs-test-{uuid.uuid4().hex[:8]}:native"


@pytest.fixture(params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path: pathlib.Path, image: str) -> Iterator[Site]:
    """A site with the collection from a built artefact, whose host has no image."""
    variables = {"release_manager_image": image, "release_manager_build_image": True}
    with running_site(tmp_path / "site", request.param, is_created=False, **variables) as site:
        install(tmp_path, site)
        try:
            yield site
        finally:
            for name in (image, beside(image, "package"), beside(image, "base")):
                site.engine_command("image", "rm", name, check=False)


def install(directory: pathlib.Path, site: Site) -> None:
    """Have the site use what a release of this checkout would have."""
    tree = subprocess.run([ROOT / "tools/collection-tree", directory], check=True, capture_output=True, text=True)
    galaxy = [pathlib.Path(sys.executable).with_name("ansible-galaxy"), "collection"]
    artefact = directory / "artefact"
    subprocess.run([*galaxy, "build", "--output-path", artefact, tree.stdout.strip()], check=True, capture_output=True)
    (archive,) = artefact.iterdir()
    (site.directory / "collections/ansible_collections/cvmfs/publishing").unlink()
    to = ["--collections-path", site.directory / "collections"]
    done = subprocess.run(
        [*galaxy, "install", archive, *to], check=False, env=site.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def beside(image: str, word: str) -> str:
    return image.replace(":", f"-{word}:")


def identity(site: Site, image: str) -> str:
    return site.engine_command("image", "inspect", "--format", "{{.Id}}", image, check=False).strip()


def named(site: Site, image: str) -> list[str]:
    """The images whose names begin as this one's does."""
    names = site.engine_command("images", "--format", "{{.Repository}}").split()
    return sorted(name for name in names if name.startswith(image.partition(":")[0]))


def test_build(site: Site, image: str, source: pathlib.Path) -> None:
    collection = site.directory / "collections/ansible_collections/cvmfs/publishing"
    left, of_now = (pathlib.Path(tempfile.mkdtemp(dir="/var/tmp", prefix="cvmfs-image-")) for _ in range(2))
    a_day_ago = time.time() - 86500
    os.utime(left, (a_day_ago, a_day_ago))
    assert not collection.is_symlink()
    assert site.play("site", "--check").expect().changed > 0
    assert identity(site, image) == ""
    site.play("site").expect()
    assert (left.exists(), of_now.exists()) == (False, True)
    of_now.rmdir()
    first = identity(site, image)
    assert site.play("site").expect().changed == 0
    site.publish(source, "sw").expect()
    site.verify(source, "sw").expect()

    # Other sources: predicted, done once, and nothing of the one before is left
    with (collection / "images/release_manager/cvmfs_publisher/src/cvmfs_publisher/__init__.py").open("a") as file:
        file.write("# another\n")
    predicted = site.play("site", "--check").expect()
    assert identity(site, image) == first
    done = site.play("site").expect()
    assert done.changed == predicted.changed == 1
    second = identity(site, image)
    assert second != first
    assert identity(site, first) == ""
    assert site.play("site").expect().changed == 0
    (source / "new").write_text("by another image")
    site.publish(source, "sw").expect()

    # Debian's packages of today, if asked for: on another base, another image takes the place of the one before
    base = identity(site, beside(image, "base"))
    assert site.play("site", "--check", release_manager_refresh_image=True).expect().changed == 1
    assert identity(site, image) == second
    assert site.play("site", release_manager_refresh_image=True).expect().changed == 1
    assert identity(site, beside(image, "base")) not in ("", base)
    assert identity(site, image) not in ("", second)
    assert [identity(site, name) for name in (base, second)] == ["", ""]
    assert site.play("site").expect().changed == 0

    # What the image has nothing of does not count; another version does
    (collection / "README.md").write_text("another\n")
    assert site.play("site", "--check").expect().changed == 0
    manifest = json.loads((collection / "MANIFEST.json").read_text())
    manifest["collection_info"]["version"] = "99.9.9"
    (collection / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
    assert site.play("site").expect().changed == 1
    labels = json.loads(site.engine_command("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    assert labels["org.opencontainers.image.version"] == "99.9.9"

    # All that was built goes with the rest
    assert len(named(site, image)) == 3
    assert site.play("site", "--check", release_manager_state="absent").expect().changed > 0
    assert len(named(site, image)) == 3
    site.play("site", release_manager_state="absent").expect()
    assert named(site, image) == []
    assert site.play("site", release_manager_state="absent").expect().changed == 0
