# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository gets a new key while it is in use, and clients are never without one that they trust."""

from __future__ import annotations

import pathlib
import re
import sys
import threading

import pytest
import yaml

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


def _add_a_host(site: Site) -> pathlib.Path:
    """Add a second release manager's host; return the file with the whitelist that was there whenever it was used."""
    seen, program = site.directory / "seen", site.directory / "python"
    program.write_text(f'#!/bin/sh\ncurl -sS {site.url}/.cvmfswhitelist >>{seen}\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    path = site.directory / "inventory.yml"
    inventory = yaml.safe_load(path.read_text())
    variables = {**inventory["all"]["hosts"]["localhost"], "ansible_python_interpreter": str(program)}
    inventory["all"]["hosts"]["second"] = variables
    inventory["release_managers"]["hosts"]["second"] = None
    path.write_text(yaml.safe_dump(inventory))
    return seen


def test_a_stolen_key(fresh: Site, source: pathlib.Path) -> None:
    """It is dropped at once, even though it has signed the current revision, which is trusted when somebody says so."""
    fresh.publish(source, "sw/1.0").expect()
    (old,) = whitelist(fresh)["fingerprints"]  # type: ignore[misc]
    asked = fresh.play("rotate_keys", repository=fresh.repository).expect(2)
    assert f"-e replaces={old}" in asked.output
    seen = _add_a_host(fresh)
    stolen = {"repository": fresh.repository, "replaces": old, "stolen": True}
    fresh.play("rotate_keys", **stolen).expect()
    assert str(old) not in seen.read_text(errors="replace")
    (new,) = whitelist(fresh, revoke=True)["fingerprints"]  # type: ignore[misc]
    assert new != old
    assert "does not list the certificate" in fresh.manager("cvmfs_repository_info")["msg"]
    assert fresh.play("rotate_keys", **stolen).expect().changed == 0
    assert fresh.play("rotate_keys", **stolen, trust_content=True).expect().changed == 1
    assert fresh.play("rotate_keys", **stolen, trust_content=True).expect().changed == 0
    fresh.verify(source, "sw/1.0").expect()


def test_an_inventory_without_localhost(fresh: Site) -> None:
    """The controller need not be in the inventory, and where the keys are may be known to release managers alone."""
    keys = fresh.keys.rename(fresh.directory / "safe")
    path = fresh.directory / "inventory.yml"
    variables = yaml.safe_load(path.read_text())["all"]["hosts"]["localhost"] | {"cvmfs_keys_dir": str(keys)}
    path.write_text(yaml.safe_dump({"release_managers": {"hosts": {"manager": None}, "vars": variables}}))
    certificate = keys / f"{fresh.repository}.crt"
    before = certificate.read_text()
    asked = fresh.play("rotate_keys", repository=fresh.repository).expect(2)
    (replaces,) = set(re.findall(r"-e replaces=([0-9A-F:]+)", asked.output))
    fresh.play("rotate_keys", repository=fresh.repository, replaces=replaces).expect()
    assert certificate.read_text() != before
    assert not fresh.keys.exists()
