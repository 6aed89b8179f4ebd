# SPDX-License-Identifier: GPL-3.0-or-later
"""The role release_manager refuses what cannot work, and takes everything away again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import ENGINES, Site, running_site
from .plays import secret_names

pytestmark = pytest.mark.roles


@pytest.fixture(scope="module", params=ENGINES)
def own_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site that nobody else needs."""
    with running_site(tmp_path_factory.mktemp("role"), request.param) as site:
        yield site


def entry(site: Site, **changes: Any) -> dict[str, Any]:
    return {site.repository: {"s3": {"endpoint": site.endpoint, "bucket": site.repository}, **changes}}


REFUSED = [
    pytest.param({"schedules": {"resign": "weekly"}}, "Better leave the key where it is", id="master key on the host"),
    pytest.param({"schedules": {"gc": "at night"}}, "is no calendar expression of systemd's", id="calendar"),
    pytest.param({"schedules": {"publish": "daily"}}, "publish", id="unknown action"),
    pytest.param({"user": "Root User"}, "names of lower-case letters", id="name of a service user"),
    pytest.param({"state": "gone"}, "value of state must be one of: present, absent", id="state"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_work_is_refused(own_site: Site, changes: dict[str, Any], message: str) -> None:
    before = sorted(own_site.config.rglob("*"))
    own_site.write_inventory(cvmfs_repositories=entry(own_site, **changes))
    run = own_site.play("site").expect(2)
    own_site.write_inventory()
    assert message in " ".join(run.output.split())
    assert sorted(own_site.config.rglob("*")) == before


def test_absent(own_site: Site) -> None:
    """It is predicted, refused while somebody is at work, done, and done once."""
    own_site.write_inventory(cvmfs_repositories=entry(own_site, state="absent"))
    secrets = secret_names(own_site)
    assert len(secrets) == 3
    predicted = own_site.play("site", "--check").expect()
    assert secret_names(own_site) == secrets

    opened = own_site.manager("cvmfs_transaction")
    refused = own_site.play("site").expect(2)
    assert f"Somebody has a transaction open on {own_site.repository}" in " ".join(refused.output.split())
    assert secret_names(own_site) == secrets
    own_site.manager("cvmfs_transaction", state="aborted", id=opened["transaction"]["id"])

    done = own_site.play("site").expect()
    assert done.changed == predicted.changed == 2  # secrets and configuration
    assert secret_names(own_site) == []
    assert not (own_site.config / own_site.repository).exists()
    assert own_site.play("site").expect().changed == 0
    assert own_site.revision() == 1  # the repository stays

    own_site.write_inventory()
    assert own_site.play("site").expect().changed > 0
    assert len(secret_names(own_site)) == 3


def test_everything_absent(own_site: Site) -> None:
    command = own_site.directory / "bin" / "cvmfs-release-manager"
    assert command.exists()
    beside = own_site.config / "notes.txt"
    beside.write_text("somebody else's")
    opened = own_site.manager("cvmfs_transaction")
    refused = own_site.play("site", release_manager_state="absent").expect(2)
    assert f"Somebody has a transaction open on {own_site.repository}" in " ".join(refused.output.split())
    assert refused.changed == 0
    assert command.exists()
    own_site.manager("cvmfs_transaction", state="aborted", id=opened["transaction"]["id"])
    assert own_site.play("site", release_manager_state="absent").expect().changed > 0
    assert not command.exists()
    assert [path.name for path in own_site.config.iterdir()] == ["notes.txt"]
    assert secret_names(own_site) == []
    beside.unlink()
    assert own_site.play("site", release_manager_state="absent").expect().changed == 1
    assert not own_site.config.exists()
    own_site.play("site").expect()
