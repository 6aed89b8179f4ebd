# SPDX-License-Identifier: GPL-3.0-or-later
"""A repository whose key is in a container of its own: those that publish have none, and everything works as ever."""

from __future__ import annotations

import json
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import ENGINES, Site, running_site

pytestmark = pytest.mark.roles


@pytest.fixture(scope="module", params=ENGINES)
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose repository has a signing service."""
    directory = tmp_path_factory.mktemp("site")
    with running_site(directory, request.param, is_created=False) as site:
        _write_inventory(site, signing_service=True)
        try:
            site.play("site").expect()
            yield site
        finally:
            site.manager("cvmfs_signing_service", state="absent")


def _write_inventory(site: Site, **settings: Any) -> None:
    repository = {"s3": {"endpoint": site.endpoint, "bucket": site.repository}, "server": site.server, **settings}
    site.write_inventory(cvmfs_repositories={site.repository: repository})


def _signer(site: Site) -> str:
    return f"cvmfs_signer-{site.repository}"


def _names(site: Site) -> list[str]:
    return site.engine_command("ps", "--format", "{{.Names}}").split()


def _execute(site: Site, container: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([site.engine, "exec", container, *command], check=False, capture_output=True, text=True)


def _signatures(site: Site) -> int:
    """Return how many manifests the service has signed since it was started, as its log says."""
    logs = [site.engine, "logs", _signer(site)]
    said = subprocess.run(logs, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    return said.count(f" signed {site.repository} revision ")


def _apply(site: Site, *options: str, **variables: object) -> int:
    """Run the role, and return how much it has changed."""
    play = [{"hosts": "release_managers", "roles": ["cvmfs.publishing.release_manager"]}]
    (site.directory / "role.yml").write_text(json.dumps(play))
    return site.play(str(site.directory / "role"), *options, **variables).expect().changed


def test_nothing_to_change(guarded: Site) -> None:
    assert _apply(guarded, "--check") == 0
    assert _apply(guarded) == 0


def test_its_log_is_kept_in_bounds(guarded: Site) -> None:
    if guarded.engine != "docker":
        pytest.skip("it is docker that would keep all that a container has ever said")
    inspect = ("container", "inspect", "--format", "{{json .HostConfig.LogConfig}}")
    log = json.loads(guarded.engine_command(*inspect, _signer(guarded)))
    assert log == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def test_a_container_that_publishes_has_no_key(guarded: Site, source: pathlib.Path) -> None:
    opened = guarded.manager("cvmfs_transaction", sources=[str(source)])
    try:
        everything = _execute(guarded, guarded.container, "cat", "/proc/self/mountinfo", "/proc/1/environ").stdout
        inspected = guarded.engine_command("container", "inspect", guarded.container)
        files = _execute(guarded, guarded.container, "find", "/etc/cvmfs", "/run", "/var/spool", "-type", "f").stdout
        for path in files.split():
            everything += _execute(guarded, guarded.container, "cat", path).stdout
        assert "BEGIN CERTIFICATE" in everything  # so the others were read, too
        assert guarded.secret_key in everything
        key = (guarded.keys / f"{guarded.repository}.key").read_text().splitlines()[5]
        assert key not in everything
        assert "PRIVATE KEY" not in everything
        assert f"{guarded.repository}-key-" not in everything + inspected
        # It can use the socket, and not take it away from others
        assert _execute(guarded, guarded.container, "rm", "/run/cvmfs-signer/socket").returncode != 0
        signer = _execute(guarded, _signer(guarded), "cat", f"/etc/cvmfs/keys/{guarded.repository}.key")
        assert key in signer.stdout
    finally:
        guarded.manager("cvmfs_transaction", state="aborted", id=opened["transaction"]["id"])


def test_it_publishes_and_a_stranger_finds_it_good(guarded: Site, source: pathlib.Path) -> None:
    before, revision = _signatures(guarded), guarded.revision()
    guarded.publish(source, "sw/1.0", tag="first").expect()
    assert guarded.revision() == revision + 1
    assert _signatures(guarded) == before + 1
    guarded.verify(source, "sw/1.0").expect()
    guarded.publish(source, "sw/2.0").expect()
    assert not guarded.manager("cvmfs_rollback", tag="first")["failed"]
    assert _signatures(guarded) == before + 3
    guarded.verify(source, "sw/1.0").expect()


def test_the_engine_starts_it_again(guarded: Site, source: pathlib.Path) -> None:
    assert _execute(guarded, _signer(guarded), "sh", "-c", "kill -TERM 1").returncode == 0
    guarded.publish(source, "sw/restarted").expect()
    guarded.verify(source, "sw/restarted").expect()


def test_without_it_nothing_is_published(guarded: Site, source: pathlib.Path) -> None:
    guarded.engine_command("stop", _signer(guarded))
    revision = guarded.revision()
    run = guarded.publish(source, "sw/never").expect(2)
    assert f"The signing service of {guarded.repository} cannot be reached at /run/cvmfs-signer/socket" in run.output
    assert guarded.revision() == revision
    assert not guarded.has_container()
    assert _apply(guarded, "--check") == 1
    assert _apply(guarded) == 1
    guarded.publish(source, "sw/again").expect()


def test_it_gets_a_new_key(guarded: Site, source: pathlib.Path) -> None:
    (old,) = guarded.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
    guarded.play("rotate_keys", repository=guarded.repository, replaces=old).expect()
    (new,) = guarded.manager("cvmfs_repository_info")["whitelist"]["fingerprints"]
    assert new != old
    guarded.publish(source, "sw/rotated").expect()
    guarded.verify(source, "sw/rotated").expect()
    assert _apply(guarded) == 0


def test_it_is_taken_away(guarded: Site, source: pathlib.Path) -> None:
    place = guarded.config / guarded.repository / "signer"
    assert (place / "socket").is_socket()
    _apply(guarded, release_manager_state="absent")
    assert _signer(guarded) not in _names(guarded)
    assert not guarded.config.exists()
    assert _apply(guarded, "--check") > 0
    _apply(guarded)
    assert _signer(guarded) in _names(guarded)
    _write_inventory(guarded, signing_service=False)
    predicted = _apply(guarded, "--check")
    assert _signer(guarded) in _names(guarded)
    assert _apply(guarded) >= predicted > 0
    assert _signer(guarded) not in _names(guarded)
    assert not place.exists()
    guarded.publish(source, "sw/with-key").expect()
