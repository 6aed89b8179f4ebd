# SPDX-License-Identifier: GPL-3.0-or-later
"""Which commands each method of UpstreamServer is, and what becomes of what CernVM-FS's own tools print."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._upstream_server import UpstreamServer
from cases import Case, Commands, load

NATIVE = "/opt/cvmfs-publisher/bin/cvmfs_server"


@pytest.mark.parametrize("case", load(__file__))
def test_command(case: Case) -> None:
    commands = Commands(case["commands"])

    def execute(argv: list[str], *, environment: Any, **streams: Any) -> Any:
        assert environment is None
        return commands([word.replace(NATIVE, "NATIVE") for word in argv], **streams)

    server = UpstreamServer(version=case.get("version", "2.12.0"), execute=execute, fqrn="sw.example.org")
    method = getattr(server, case["method"])
    if "error" in case:
        with pytest.raises(PublishingError) as caught:
            method(**case.get("arguments", {}))
        assert str(caught.value) == case["error"]
    else:
        result = method(**case.get("arguments", {}))
        if isinstance(result, dict):
            result.pop("seconds", None)
        assert result == case["result"]
    commands.finish()
