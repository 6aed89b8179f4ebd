# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/operators-guide.md, from the first to the last."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from . import documents
from .conftest import ROOT, clean, running_site

pytestmark = pytest.mark.extended


def test_operators_guide(tmp_path: pathlib.Path, source: pathlib.Path) -> None:
    with running_site(tmp_path / "site", "podman", server={"CVMFS_GARBAGE_COLLECTION": True}) as site:
        old = dataclasses.replace(site, repository=f"old-{site.repository}")
        names = {
            "https://s3.example.org/software/software.example.org": site.url,
            "software.example.org": site.repository,
            "old.example.org": old.repository,
            "/build/release": str(source),
            "/backup/": f"{tmp_path}/backup-",
            "rm2.example.org": "localhost",
        }
        repositories = {
            each.repository: {"s3": {"endpoint": site.endpoint, "bucket": each.repository}, "server": server}
            for each, server in ((site, site.server), (old, {}))
        }
        site.write_inventory(cvmfs_repositories=repositories)
        try:
            guide = ROOT / "docs" / "operators-guide.md"
            environment = {**site.environment, "ANSIBLE_INVENTORY": "inventory.yml"}
            assert documents.run(guide, environment=environment, directory=site.directory, names=names) == 33
            site.verify(source, "sw/1.3").expect()
        finally:
            clean(old)
