# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Show how far a module is while it runs. Private to the collection.

A module's result comes when it has ended, and a publish takes minutes. So the module writes its progress to a file of
the host, and this reads the file's end now and then, over the connection that there is, and prints it on the
controller.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
import threading
import typing as t
import uuid

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

_EVERY = 5.0  # seconds between two looks at the file
_TAIL = 400  # bytes, more than a line

display = Display()


class ProgressActionBase(ActionBase):
    """Runs the module of the same name, and prints its progress."""

    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: t.Optional[str] = None, task_vars: t.Optional[dict[str, t.Any]] = None) -> dict[str, t.Any]:
        """Run the module on the host."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        wrap_async = bool(self._task.async_val)
        if arguments.get("progress_path") or wrap_async:
            result.update(self._module(arguments, task_vars, wrap_async))
            return result
        path = f"/tmp/cvmfs-progress-{uuid.uuid4()}"  # noqa: S108 (nobody can guess it, and nothing in it is secret)
        with self._printing(path):
            result.update(self._module({**arguments, "progress_path": path}, task_vars, wrap_async))
        self._low_level_execute_command(f"rm -f {shlex.quote(path)}")
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def _module(self, arguments, task_vars, wrap_async):
        return self._execute_module(
            module_name=self._task.action, module_args=arguments, task_vars=task_vars, wrap_async=wrap_async
        )

    @contextlib.contextmanager
    def _printing(self, path):
        done = threading.Event()
        thread = threading.Thread(target=self._print_progress, args=(path, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _print_progress(self, path, done):
        shown = ""
        # A second connection of the same kind: the first one waits for the module.
        connection = copy.copy(self._connection)
        while not done.wait(_EVERY):
            line = self._last_line(connection, path)
            if line and line != shown:
                display.display(f"    {line}", color=C.COLOR_VERBOSE)
                shown = line

    def _last_line(self, connection, path):
        """Return the last whole line of the file, or nothing; a look that fails is no reason to fail the task."""
        try:
            if connection.transport == "local" and os.access(path, os.R_OK):
                with open(path, "rb") as stream:
                    stream.seek(max(0, stream.seek(0, 2) - _TAIL))
                    data = stream.read()
            else:
                # Not every connection has a shell at its other end.
                script = f"tail -c {_TAIL} {shlex.quote(path)} 2>/dev/null"
                data = connection.exec_command(f"/bin/sh -c {shlex.quote(script)}", in_data=None, sudoable=False)[1]
        except Exception:
            return ""
        lines = data.rpartition(b"\n")[0].splitlines()
        return lines[-1].decode("utf-8", "replace").strip() if lines else ""
