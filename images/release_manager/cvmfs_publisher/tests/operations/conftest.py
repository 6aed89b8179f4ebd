# SPDX-License-Identifier: GPL-3.0-or-later
"""Repositories to test with."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cvmfs_publisher.operations.mkfs import MkfsOptions, mkfs
from cvmfs_publisher.storage import S3Config
from operations.managers import NAME, ReleaseManager, local_settings, make, s3_settings


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new repository on local storage: its storage, and its keys. To be copied, not used."""
    base = tmp_path_factory.mktemp("template")
    manager = ReleaseManager(base / "manager", local_settings(base / "storage"))
    mkfs(manager.environment, NAME, MkfsOptions())
    return base


def from_template(template: Path, base: Path) -> ReleaseManager:
    """Return a release manager with a repository of its own in `base`."""
    shutil.copytree(template / "storage", base / "storage")
    shutil.copytree(template / "manager" / "etc" / "keys", base / "manager" / "etc" / "keys")
    return ReleaseManager(base / "manager", local_settings(base / "storage"))


@pytest.fixture
def local(template: Path, tmp_path: Path) -> ReleaseManager:
    """A release manager with a repository in a directory."""
    return from_template(template, tmp_path)


@pytest.fixture(scope="session")
def new_s3(
    template: Path, tmp_path_factory: pytest.TempPathFactory, s3_bucket: S3Config
) -> Callable[[], ReleaseManager]:
    """Makes release managers that have keys, and a place in a real bucket, where there is no repository yet."""

    def make_one() -> ReleaseManager:
        base = tmp_path_factory.mktemp("s3") / "manager"
        shutil.copytree(template / "manager" / "etc" / "keys", base / "etc" / "keys")
        config = dataclasses.replace(s3_bucket, prefix=secrets.token_hex(6))
        return ReleaseManager(base, s3_settings(config, base / "s3.conf"))

    return make_one


@pytest.fixture
def s3_new(new_s3: Callable[[], ReleaseManager]) -> ReleaseManager:
    """A release manager with keys, and a place in a real bucket, where there is no repository yet."""
    return new_s3()


@pytest.fixture
def s3(s3_new: ReleaseManager) -> ReleaseManager:
    """A release manager with a repository in a real bucket."""
    mkfs(s3_new.environment, NAME, MkfsOptions())
    return s3_new


@pytest.fixture(params=["local", "s3"])
def manager(request: pytest.FixtureRequest) -> ReleaseManager:
    """A release manager with a repository on each kind of storage, in turn."""
    found: ReleaseManager = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory with a little software in it."""
    return make(tmp_path / "source", bin__run="#!/bin/sh\n", lib__data="data\n" * 1000, README="read me\n")
