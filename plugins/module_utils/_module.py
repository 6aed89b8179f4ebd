# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What all modules have in common.

`changed`, diff, check mode, and the boundary where errors end. Private to the collection.
"""

from __future__ import annotations

import abc
import functools
import signal

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError


class Interrupted(PublishingError):
    """The module was told to end. Being an exception, it gives everything the chance to clean up."""


def skip_if_check_mode(method):
    """Do not do what `method` does when only a prediction is wanted."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        return None if self.check_mode else method(self, *args, **kwargs)

    return wrapper


def trigger_change(method):
    """Report a change when `method` is called.

    Put it outside of :func:`skip_if_check_mode`: a prediction is a change, too.
    """

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        result = method(self, *args, **kwargs)
        self.changed = True
        return result

    return wrapper


class PublishingModule(abc.ABC):
    """Base of the modules' manager classes.

    A subclass declares `argument_spec`, and further keywords of ``AnsibleModule`` in `module_options`. Its
    :meth:`execute` fills `result`, and `before` and `after` for the diff.
    """

    argument_spec: dict = {}
    module_options: dict = {}

    def __init__(self):
        self.module = AnsibleModule(argument_spec=self.argument_spec, supports_check_mode=True, **self.module_options)
        self.params = self.module.params
        self.check_mode = self.module.check_mode
        self.changed = False
        self.result = {}
        self.before = {}
        self.after = {}
        self.prepared_diff = None

    @classmethod
    def main(cls):
        """Be the module."""
        manager = cls()
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            manager.execute()
        except PublishingError as error:
            details = {**manager.result, **error.details}
            manager.module.fail_json(msg=str(error), changed=manager.changed, **details)
        manager.module.exit_json(changed=manager.changed, **manager.result, **manager._diff())

    @abc.abstractmethod
    def execute(self):
        """Do what the parameters ask for. PublishingError."""

    def _diff(self):
        if not self.module._diff:  # pylint: disable=protected-access
            return {}
        if self.prepared_diff is not None:
            return {"diff": {"prepared": self.prepared_diff}}
        return {"diff": {"before": self.before, "after": self.after}}


def differences(before, after):
    """Return what differs in two states, as ``{name, current, desired}``."""
    names = sorted({*before, *after})
    return [
        {"name": name, "current": before.get(name), "desired": after.get(name)}
        for name in names
        if before.get(name) != after.get(name)
    ]


def _interrupt(number, dummy_frame):
    raise Interrupted(f"The module was ended by {signal.Signals(number).name}")
