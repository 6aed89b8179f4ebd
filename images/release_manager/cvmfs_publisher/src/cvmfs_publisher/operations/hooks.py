# SPDX-License-Identifier: GPL-3.0-or-later
"""Server hooks: a site's own shell functions, called before and after transactions are opened, published and aborted.

They are in ``cvmfs_server_hooks.sh`` in the configuration directory (CernVM-FS documentation, "Customizable Actions
Using Server Hooks"), which is sourced by a shell for each of them. A function that is not there does nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from enum import Enum

from ..errors import HookFailed
from .environment import Environment

_FILE = "cvmfs_server_hooks.sh"
_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "CVMFS_CONFIG_DIR")
"""Variables that a hook gets besides the repository's settings. Others may be somebody's secrets."""

_NOT_FOR_HOOKS = "CVMFS_GEO_LICENSE_KEY"

# Like POSIX's shells, bash in that mode ends at a syntax error in the file
_CALL = '{hook}() {{ :; }}; . "$1"; [ -z "$BASH" ] || set +o posix; {hook} "$2"'


class Hook(Enum):
    """A hook; the value is the function's name."""

    TRANSACTION_BEFORE = "transaction_before_hook"
    TRANSACTION_AFTER = "transaction_after_hook"
    PUBLISH_BEFORE = "publish_before_hook"
    PUBLISH_AFTER = "publish_after_hook"
    ABORT_BEFORE = "abort_before_hook"
    ABORT_AFTER = "abort_after_hook"


_OUTCOME = {
    Hook.TRANSACTION_BEFORE: "No transaction was opened",
    Hook.TRANSACTION_AFTER: "The transaction is open all the same",
    Hook.PUBLISH_BEFORE: "Nothing was published",
    Hook.PUBLISH_AFTER: "The revision is published all the same",
    Hook.ABORT_BEFORE: "The transaction is still open",
    Hook.ABORT_AFTER: "The transaction has ended all the same",
}


def call_hook(environment: Environment, name: str, hook: Hook) -> None:
    """Call a hook with the repository's name, if there is a file with hooks; it finds the settings in its environment.

    What it prints goes to standard error: standard output is for the subcommand's own result.

    :raises HookFailed: with the hook's exit code, when that is not 0
    """
    file = environment.config_dir / _FILE
    if not file.is_file():
        return
    bash = shutil.which("bash")
    shell = [bash, "-o", "posix"] if bash else ["/bin/sh"]
    sys.stderr.flush()
    done = subprocess.run(
        [*shell, "-c", _CALL.format(hook=hook.value), hook.value, str(file.absolute()), name],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if _has_descriptor() else subprocess.DEVNULL,
        env={
            **{key: value for key, value in environment.settings(name).items() if key != _NOT_FOR_HOOKS},
            **{key: os.environ[key] for key in _PASSED_ON if key in os.environ},
        },
        check=False,
    )
    if done.returncode != 0:
        code = done.returncode if done.returncode > 0 else 128 - done.returncode  # as shells say it of signals
        raise HookFailed(
            f"{hook.value} in {file} failed for {name} with exit code {code}", remedy=_OUTCOME[hook], exit_code=code
        )


def _has_descriptor() -> bool:
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True
