# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role release_manager leaves on a host, for those who only read it."""

from __future__ import annotations

import json
import pathlib
from typing import Any


def configure(config: pathlib.Path, fqrn: str, **facts: Any) -> pathlib.Path:
    """Have a repository that the host knows; return its directory. `facts` are said besides those that have to be."""
    needed = {
        **dict.fromkeys(("network", "memory")),
        "container_name": "c",
        "engine": "podman",
        "image": "i",
        "labels": {},
        "secrets": {},
        "stratum0_url": "http://127.0.0.1:1/x",
    }
    directory = config / fqrn
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "release-manager.json").write_text(json.dumps({**needed, **facts}))
    return directory
