# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run commands by argument vector. Private to the collection.

``AnsibleModule.run_command`` returns when a command has ended; a publish takes minutes. So standard error, where
``cvmfs_server`` reports its progress, may go to a file that somebody else reads meanwhile. What a person is to see
and to answer runs on the person's own terminal.
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import shutil
import subprocess
import typing as t

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError

_STDERR_TAIL = 64 * 1024  # bytes of a progress file that may matter for an error message


@dataclasses.dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    argv: list
    rc: int
    stdout: str
    stderr: str

    @property
    def complaint(self):
        """The last line that the command wrote to standard error: where programs put the reason."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit code {self.rc} without an error message"

    def check(self, message, *, remedy=None):
        """Return self, or raise :class:`CommandError` if the command failed."""
        if self.rc != 0:
            raise CommandError(f"{message}: {self.complaint}" if message else self.complaint, self, remedy=remedy)
        return self


def run(argv, *, stdin=None, stderr_path=None, user=None) -> Completed:
    """Run `argv` and wait for it.

    `stdin` is text for standard input: the way for secrets, which must not be in `argv` or the environment.
    `stderr_path` is a file to which standard error is written while the command runs. `user` is the name of the user
    who runs the command, for root.
    """
    command = [_executable(argv[0]), *argv[1:]]
    data = stdin.encode("utf-8", "surrogateescape") if stdin is not None else None
    if stderr_path is None:
        process = _run(command, data, subprocess.PIPE, user)
        stderr = process.stderr
    else:
        with open(stderr_path, "w+b", buffering=0) as stream:
            process = _run(command, data, stream, user)
            stream.seek(max(0, stream.seek(0, 2) - _STDERR_TAIL))
            stderr = stream.read()
    return Completed(list(argv), process.returncode, _text(process.stdout), _text(stderr))


def attach(argv, *, user=None) -> int:
    """Run `argv` with this process's own standard streams; return its exit code, or 128 and the signal's number.

    `user` is the name of the user who runs the command, for root.

    Who interrupts it with Ctrl-C interrupts the command; what becomes of that is the command's affair.
    """
    options = as_user(user) if user is not None else {}
    with subprocess.Popen([_executable(argv[0]), *argv[1:]], **options) as process:
        try:
            while True:
                try:
                    code = process.wait()
                    break
                except KeyboardInterrupt:
                    continue
        except BaseException:
            process.terminate()
            raise
    return code if code >= 0 else 128 - code


def _executable(name):
    found = shutil.which(name)
    if found is None:
        raise PublishingError(f"The command {name} is not installed", remedy=f"Install {name}, or correct PATH.")
    return found


def user_id(user):
    """Return the number of the user with that name. PublishingError."""
    return _account(user).pw_uid


def _run(command, data, stderr: t.Any, user):
    # Without data the command gets an empty standard input: it must never wait for somebody to answer a question.
    options: dict = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    if user is not None:
        options.update(as_user(user))
    return subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=stderr, **options)


def as_user(user) -> dict:
    """Return the options of ``subprocess`` with which root runs a command as `user`, who has a session of systemd's.

    Nothing of root's environment is passed on. PublishingError.
    """
    account = _account(user)
    environment = {
        "HOME": account.pw_dir,
        "LOGNAME": user,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
        "USER": user,
        "XDG_RUNTIME_DIR": f"/run/user/{account.pw_uid}",
    }
    return {
        "user": account.pw_uid,
        "group": account.pw_gid,
        "extra_groups": os.getgrouplist(user, account.pw_gid),
        "env": environment,
        "cwd": "/",  # root's directory may not be the user's to be in
    }


def _account(user):
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise PublishingError(
            f"This host has no user {user}", remedy="Run the role cvmfs.publishing.release_manager on it."
        ) from None


def _text(data):
    return data.decode("utf-8", "backslashreplace")
