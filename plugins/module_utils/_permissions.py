# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may publish where, of the people who come by sudo. Private to the collection.

sudo says who somebody is, whatever it was that the login was proved by: a password, an SSH key, or an SSH certificate
whose principal sshd takes for the account. Or a token says it: see :mod:`_oidc`.
"""

from __future__ import annotations

import dataclasses
import grp
import os
import pwd

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError


@dataclasses.dataclass(frozen=True)
class Person:
    """Who has called this command by sudo. `names` are the account, and its groups with % before them.

    Of who has come by a token, `account` is its subject, `names` are what its claims stand for, and `token` is what
    tells it from others.
    """

    account: str
    names: frozenset
    token: dict = None

    @classmethod
    def of_process(cls):
        """Return who it is; None for root, and for a service user who has logged in as such. PublishingError."""
        account = os.environ.get("SUDO_USER")
        if account in (None, "root"):
            return None
        try:
            entry = pwd.getpwnam(account)
            groups = [grp.getgrgid(number).gr_name for number in os.getgrouplist(account, entry.pw_gid)]
        except KeyError:
            raise PublishingError(
                f"Nobody knows who {account} is, who has called this by sudo", remedy="See getent passwd and group."
            ) from None
        return cls(account, frozenset([account, *(f"%{group}" for group in groups)]))

    def directories(self, permissions):
        """Return the directories in which `permissions` let this person publish; "" is the whole repository."""
        return sorted(path.strip("/") for path, names in permissions.items() if self.names.intersection(names))

    def may_everything(self, permissions):
        """Whether they let this person work in the whole repository."""
        return "" in self.directories(permissions)

    def require(self, permissions, fqrn, path):
        """Raise PublishingError if this person may not publish at `path`."""
        names = path.split("/")
        if ".." in names or "." in names:
            raise PublishingError(
                f"{path} is no path of a repository", remedy="Name it from the root, without .. in it."
            )
        wanted = [name for name in names if name]
        # The publisher takes a path of the mounted repository for the one that is below the mount point. Whoever has a
        # directory cvmfs would get anywhere by it.
        if wanted[:2] == ["cvmfs", fqrn]:
            below = "/".join([fqrn, *wanted[2:]])
            raise PublishingError(
                f"{path} is a path of the mounted repository",
                remedy=f"Name it from the root of the repository, without the mount point: {below}.",
            )
        allowed = self.directories(permissions)
        for directory in allowed:
            parts = [name for name in directory.split("/") if name]
            if wanted[: len(parts)] == parts:
                return
        where = ", ".join(f"{fqrn}/{directory}" for directory in allowed) or "nowhere"
        raise PublishingError(
            f"{self.account} may not publish at {fqrn}/{'/'.join(wanted)}, but {'below ' if allowed else ''}{where}",
            remedy="Ask who keeps the inventory: permissions of the repository say so.",
        )
