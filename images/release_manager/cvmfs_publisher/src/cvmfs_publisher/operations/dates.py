# SPDX-License-Identifier: GPL-3.0-or-later
"""Points in time, in the words of date(1), as CernVM-FS's settings and options have them."""

from __future__ import annotations

import os
import subprocess

from ..errors import ConfigurationError


def point_in_time(text: str, where: str) -> int:
    """Return the seconds since 1970 that `text` means, e.g. ``3 days ago``.

    :param where: the setting or option that has it, for messages
    :raises ConfigurationError: when it means none
    """
    argv = ["date", f"--date={text}", "+%s"]
    environment = {**os.environ, "LC_ALL": "C"}
    if "\0" not in text:
        result = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
        if result.returncode == 0:
            return int(result.stdout)
    raise ConfigurationError(f"{where}={text} is no point in time", remedy="Write it as date(1) takes it: 4 weeks ago")
