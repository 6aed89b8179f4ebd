# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exceptions that module utilities raise. Private to the collection.

Utilities raise, and only the error boundary in ``_module`` turns an exception into ``fail_json``.
"""

from __future__ import annotations

import functools


class PublishingError(Exception):
    """What failed, on which object, and what to do next."""

    def __init__(self, message, *, remedy=None):
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self):
        message = self.message if self.message.endswith((".", "?", "!")) else f"{self.message}."
        return f"{message} {self.remedy}" if self.remedy else message

    @property
    def details(self):
        """Further facts for the module's result."""
        return {}


class CommandError(PublishingError):
    """A command that ended with an exit code other than zero. `completed` is a :class:`_command.Completed`."""

    def __init__(self, message, completed, *, remedy=None):
        super().__init__(message, remedy=remedy)
        self.completed = completed

    @property
    def details(self):
        return {
            "cmd": self.completed.argv,
            "rc": self.completed.rc,
            "stdout": self.completed.stdout,
            "stderr": self.completed.stderr,
        }


def action(description):
    """Name once, where it is done, what an action is, so that every failure in it says what failed.

    `description` is a format string over the decorated function's keyword arguments.
    """

    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except PublishingError as error:
                error.message = f"Cannot {description.format(*args, **kwargs)}: {error.message}"
                raise
            except OSError as error:
                reason = error.strerror or str(error)
                where = f" ({error.filename})" if error.filename else ""
                raise PublishingError(f"Cannot {description.format(*args, **kwargs)}: {reason}{where}") from error

        return wrapper

    return decorate
