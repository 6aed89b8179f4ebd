# SPDX-License-Identifier: GPL-3.0-or-later
"""How a repository begins."""

from __future__ import annotations

import types
from typing import Any
from unittest import mock

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils import _repository


def create(settings: dict[str, str], **properties: Any) -> mock.MagicMock:
    """Create one by a release manager that only remembers what it is asked for; mkfs gives it the `properties`."""
    release_manager = mock.MagicMock(fqrn="sw.example.org", stratum0_url="http://s3.example.org/sw/sw.example.org")
    release_manager.settings.return_value = settings
    manifest = types.SimpleNamespace(**{"ttl": 240, "garbage_collectable": False, **properties})
    release_manager.published.return_value.manifest.return_value = manifest
    _repository.create(release_manager, whitelist="", owner=None)
    return release_manager


@pytest.mark.parametrize(("seconds", "revisions"), [(None, 0), ("0", 0), ("240", 0), ("900", 1)])
def test_a_time_to_live_is_published(seconds: str | None, revisions: int) -> None:
    release_manager = create({} if seconds is None else {"CVMFS_REPOSITORY_TTL": seconds})
    assert release_manager.server.return_value.publish.call_count == revisions


@pytest.mark.parametrize(
    ("word", "is_on"),
    [("true", True), ("Yes", True), ("on", True), ("1", True), ("false", False), ("No", False), ("off", False)],
)
def test_switches_are_those_of_release_managers(word: str, is_on: bool) -> None:
    settings = {"CVMFS_AUTO_TAG": word, "CVMFS_GARBAGE_COLLECTION": word}
    release_manager = create(settings, garbage_collectable=is_on)
    arguments = release_manager.server_once.return_value.mkfs.call_args.kwargs
    assert (arguments["auto_tag"], arguments["garbage_collectable"]) == (is_on, is_on)


def test_what_is_not_said() -> None:
    arguments = create({}).server_once.return_value.mkfs.call_args.kwargs
    assert (arguments["auto_tag"], arguments["garbage_collectable"]) == (True, False)
