# SPDX-License-Identifier: GPL-3.0-or-later
"""Which command each method of CvmfsServer is, and what becomes of the answer."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils._cvmfs_server import CvmfsServer
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from cases import Case, Commands, load


@pytest.mark.parametrize("case", load(__file__))
def test_command(case: Case) -> None:
    commands = Commands(case["commands"])

    def execute(argv: list[str], *, environment: Any, **streams: Any) -> Any:
        assert environment is None
        return commands(argv, **streams)

    server = CvmfsServer(execute=execute, fqrn="sw.example.org")
    method = getattr(server, case["method"])
    if "error" in case:
        with pytest.raises(PublishingError) as caught:
            method(**case.get("arguments", {}))
        assert str(caught.value) == case["error"]
    else:
        assert method(**case.get("arguments", {})) == case["result"]
    commands.finish()


def test_progress_is_asked_for_and_written(tmp_path: Any) -> None:
    path = str(tmp_path / "progress")
    seen = {}

    def execute(argv: list[str], **options: Any) -> Any:
        seen.update(options)
        return Commands([{"argv": argv, "out": {"revision": 2}}])(argv)

    CvmfsServer(execute=execute, fqrn="sw.example.org", progress_path=path).info()
    assert seen == {"stdin": None, "stderr_path": path, "environment": {"CVMFS_PROGRESS_INTERVAL": 2}}
