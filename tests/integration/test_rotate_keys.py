# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository gets a new key while it is in use, and clients are never without one that they trust."""

from __future__ import annotations

import pathlib
import threading

import pytest

from .conftest import ENGINES, Site, running_site

pytestmark = pytest.mark.extended


@pytest.fixture(params=ENGINES)
def fresh(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Site:
    """A site that no other test shares: its keys change."""
    with running_site(tmp_path / "site", request.param) as site:
        yield site


def whitelist(site: Site, **arguments: object) -> dict[str, object]:
    masterkey = (site.keys / f"{site.repository}.masterkey").read_text()
    certificate = (site.keys / f"{site.repository}.crt").read_text()
    return site.manager("cvmfs_whitelist", masterkey=masterkey, certificate=certificate, **arguments)


def test_rotate_keys(fresh: Site, source: pathlib.Path) -> None:
    fresh.publish(source, "sw/1.0").expect()
    before = fresh.revision()
    (old,) = whitelist(fresh)["fingerprints"]  # type: ignore[misc]
    failures: list[object] = []
    leaving = threading.Event()

    def read() -> None:
        while not leaving.is_set():
            info = fresh.manager("cvmfs_repository_info")
            if info["failed"]:
                failures.append(info)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        replaces = {"repository": fresh.repository, "replaces": old}
        assert fresh.play("rotate_keys", "--check", **replaces).expect().changed > 0
        assert fresh.play("rotate_keys", **replaces).expect().changed > 0
        assert fresh.play("rotate_keys", **replaces).expect().changed == 0
    finally:
        leaving.set()
        reader.join()
    assert failures == []
    (new,) = whitelist(fresh)["fingerprints"]  # type: ignore[misc]
    assert new != old
    assert fresh.revision() == before
    kept = {path.name.removeprefix(fresh.repository) for path in fresh.keys.iterdir()}
    ending = str(old).replace(":", "").lower()[:8]
    assert {f".key.{ending}", f".crt.{ending}"} <= kept
    (source / "more").write_text("more")
    fresh.publish(source, "sw/1.0").expect()
    fresh.verify(source, "sw/1.0").expect()


def test_a_stolen_key(fresh: Site, source: pathlib.Path) -> None:
    """It is dropped at once, even though it has signed the current revision, which is trusted when somebody says so."""
    fresh.publish(source, "sw/1.0").expect()
    (old,) = whitelist(fresh)["fingerprints"]  # type: ignore[misc]
    asked = fresh.play("rotate_keys", repository=fresh.repository).expect(2)
    assert f"-e replaces={old}" in asked.output
    stolen = {"repository": fresh.repository, "replaces": old, "stolen": True}
    fresh.play("rotate_keys", **stolen).expect()
    (new,) = whitelist(fresh, revoke=True)["fingerprints"]  # type: ignore[misc]
    assert new != old
    assert "does not list the certificate" in fresh.manager("cvmfs_repository_info")["msg"]
    assert fresh.play("rotate_keys", **stolen).expect().changed == 0
    assert fresh.play("rotate_keys", **stolen, trust_content=True).expect().changed == 1
    assert fresh.play("rotate_keys", **stolen, trust_content=True).expect().changed == 0
    fresh.verify(source, "sw/1.0").expect()
