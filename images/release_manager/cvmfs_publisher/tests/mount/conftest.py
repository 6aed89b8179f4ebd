# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of mounts need: a machine that can mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from operations.conftest import template as template

from .mounts import Repository


@pytest.fixture(autouse=True)
def fuse() -> None:
    """Fail where FUSE is there but of no use; skip only where the machine has none."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("THIS MACHINE HAS NO /dev/fuse: nothing of the file system view is tested")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)
