# SPDX-License-Identifier: GPL-3.0-or-later
"""Any tree, published in any order of changes, is read back by strangers as it was."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cvmfs_publisher.changes.change_set import ChangeSet
from cvmfs_publisher.errors import SourceError, UsageError
from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.operations.publish import PublishOptions, PublishResult, ingest, preview
from operations.conftest import from_template
from operations.managers import ReleaseManager
from operations.reading import published
from operations.trees import Model, Refused, Step, differences, steps

SETTINGS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

revisions = st.lists(st.lists(steps, min_size=1, max_size=2), min_size=1, max_size=4)
"""The changes of each publish."""


@settings(SETTINGS, max_examples=30)
@given(revisions=revisions)
def test_local_storage(template: Path, revisions: list[list[Step]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        _publish_and_read(from_template(template, Path(directory)), revisions)


@settings(SETTINGS, max_examples=4)
@given(revisions=revisions)
def test_s3(new_s3: Callable[[], ReleaseManager], revisions: list[list[Step]]) -> None:
    manager = new_s3()
    mkfs(manager.environment, manager.name, MkfsOptions())
    _publish_and_read(manager, revisions)


def _publish_and_read(manager: ReleaseManager, revisions: list[list[Step]]) -> None:
    model = Model(published(manager).tree)
    number = 1
    for revision in revisions:
        with tempfile.TemporaryDirectory() as scratch:
            sources = [Path(scratch) / str(index) for index in range(len(revision))]
            changes = ChangeSet(tuple(step.change(source) for step, source in zip(revision, sources, strict=True)))
            then = Model(model.tree)
            then.inodes = dict(model.inodes)
            try:
                for step, source in zip(revision, sources, strict=True):
                    then.apply(step, source)
            except Refused as reason:
                _is_refused(manager, changes, reason)
                continue
            result = _publish(manager, changes)
            before, model = model, then
            number += result.changed
            if len(revision) == 1:
                assert result.added == len(model.tree.keys() - before.tree.keys())
                assert result.removed == len(before.tree.keys() - model.tree.keys())
            found = published(manager)
            assert list(differences(model.expected, found.tree)) == []
            assert found.catalogs == model.catalogs
            assert found.revision == result.revision == number
            assert manager.check().revision == number
            if len(revision) == 1:  # else one change may undo another, and that is a change
                assert result.changed == (before.expected != model.expected)
                assert not _ingest(manager, changes).changed


def _publish(manager: ReleaseManager, changes: ChangeSet) -> PublishResult:
    """Publish, and assert that the preview told what would happen."""
    predicted = preview(manager.environment, manager.name, changes, PublishOptions())
    result = _ingest(manager, changes)
    assert _told(predicted) == _told(result)
    assert predicted.dry_run
    assert not result.dry_run
    return result


def _ingest(manager: ReleaseManager, changes: ChangeSet) -> PublishResult:
    return ingest(manager.environment, manager.name, changes, PublishOptions())


def _told(result: PublishResult) -> object:
    return (result.changed, result.added, result.modified, result.removed, dataclasses.astuple(result.paths))


def _is_refused(manager: ReleaseManager, changes: ChangeSet, reason: Refused) -> None:
    before = manager.state()
    with pytest.raises((SourceError, UsageError)):
        preview(manager.environment, manager.name, changes, PublishOptions())
    assert manager.state() == before
    with pytest.raises((SourceError, UsageError)) as caught:
        _ingest(manager, changes)
    assert caught.value.remedy, reason
    assert manager.state() == before
