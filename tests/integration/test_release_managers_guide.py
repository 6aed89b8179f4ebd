# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the release manager's guide, run as they are written."""

from __future__ import annotations

import pathlib

import pytest

from . import documents
from .conftest import ROOT, Site

pytestmark = [pytest.mark.extended, pytest.mark.parametrize("site", ["podman"], indirect=True)]


def test_guide(site: Site, source: pathlib.Path) -> None:
    (source / "install.sh").write_text('#!/bin/sh -e\nmkdir -p "$1"\ncp -R bin "$1"\n')
    (source / "install.sh").chmod(0o755)
    environment = site.environment
    count = documents.run(
        ROOT / "docs" / "release-managers-guide.md",
        environment={**environment, "PATH": f"{site.command.parent}:{environment['PATH']}"},
        directory=site.directory,
        names={
            "software.example.org": site.repository,
            "inventories/example": str(site.directory / "inventory.yml"),
            "/build/release-1.2": str(source),
        },
    )
    assert count == 14
