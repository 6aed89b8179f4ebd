# SPDX-License-Identifier: GPL-3.0-or-later
"""Locked requirements: everything is pinned, everything has hashes, nothing names an index."""

from __future__ import annotations

import pathlib
import re

import pytest
from conftest import CHECKOUT

# requirements/controller.txt is for other people's controllers, and leaves the versions to them.
LOCKED = sorted(
    {*CHECKOUT.glob("requirements/*.txt"), *CHECKOUT.glob("images/release_manager/requirements*.txt")}
    - {CHECKOUT / "requirements/controller.txt"}
)


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_is_pinned_and_hashed(path: pathlib.Path) -> None:
    text = re.sub(r"(?m)^\s*#.*$", "", path.read_text()).replace("\\\n", " ")
    entries = [line.split() for line in text.splitlines() if line.strip()]
    assert entries
    for name, *rest in entries:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*==[^=]+", name), name
        assert any(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in rest), name


@pytest.mark.parametrize("path", sorted(CHECKOUT.glob("requirements/*.in")), ids=lambda path: path.stem)
def test_lock_covers_what_is_asked_for(path: pathlib.Path) -> None:
    """Whoever adds a requirement and forgets ``make lock`` learns it here."""
    asked = re.findall(r"(?m)^([A-Za-z0-9._-]+)", path.read_text())
    locked = set(re.findall(r"(?m)^([a-z0-9._-]+)==", path.with_suffix(".txt").read_text()))
    assert {re.sub(r"[._]", "-", name).lower() for name in asked} <= locked


def test_image_has_what_the_package_needs() -> None:
    declared = (CHECKOUT / "images/release_manager/cvmfs_publisher/pyproject.toml").read_text()
    dependencies = re.search(r"(?s)\ndependencies = \[(.*?)\]", declared)
    assert dependencies
    locked = (CHECKOUT / "images/release_manager/requirements.txt").read_text()
    for name in re.findall(r'"([a-z0-9-]+)', dependencies[1]):
        assert f"\n{name}==" in locked
