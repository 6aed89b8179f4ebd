# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks with the upstream engine's image, in which CernVM-FS's own tools publish.

CVMFS_INTEROP_UPSTREAM_IMAGE   the image, as images/release_manager/Containerfile.upstream builds it
"""

from __future__ import annotations

import os
import pathlib
import urllib.request
from collections.abc import Iterator

import pytest
from integration.conftest import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose release manager has that image."""
    image = os.environ.get("CVMFS_INTEROP_UPSTREAM_IMAGE")
    if not image:
        pytest.skip("the upstream engine's image not tested: CVMFS_INTEROP_UPSTREAM_IMAGE does not name it")
    with running_site(tmp_path_factory.mktemp("site"), "podman", release_manager_image=image) as site:
        yield site


@pytest.fixture
def release(tmp_path: pathlib.Path) -> pathlib.Path:
    """A release without hard links, which overlayfs does not keep."""
    root = tmp_path / "release"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "line\nbreak").write_text("a")
    (root / "link").symlink_to("bin/tool")
    (root / "big").write_bytes(os.urandom(9 << 20))
    return root


def test_publish_as_with_the_native_engine(site: Site, release: pathlib.Path) -> None:
    before = site.revision()
    preview = site.publish(release, "sw/1.0", "--check", "--diff").expect()
    assert "+ /sw/1.0/bin/tool" in preview.output
    assert site.revision() == before
    site.publish(release, "sw/1.0", tag="first").expect()
    assert site.revision() == before + 1
    site.verify(release, "sw/1.0").expect()
    assert site.publish(release, "sw/1.0").expect().changed == 0
    (release / "big").unlink()
    site.publish(release, "sw/1.0").expect()
    site.verify(release, "sw/1.0").expect()
    assert not site.has_container()
    with urllib.request.urlopen(f"{site.url}/.cvmfs_publishing_lease.json") as response:  # noqa: S310
        assert b'"is_released": true' in response.read()


def test_tags_and_check(site: Site) -> None:
    assert site.play("tag", repository=site.repository, tag="named").expect().changed == 1
    assert site.play("tag", repository=site.repository, tag="named", state="absent").expect().changed == 1
    site.play("check").expect()


def test_a_stranger_is_left_alone(site: Site, release: pathlib.Path) -> None:
    before = site.revision()
    stranger = site.manager("cvmfs_transaction", sources=[str(release)])["transaction"]
    try:
        run = site.publish(release, "sw/2.0").expect(2)
        assert f"Transaction {stranger['id']} is open" in run.output
    finally:
        assert site.manager("cvmfs_transaction", state="aborted", id=stranger["id"])["changed"]
    assert site.revision() == before
