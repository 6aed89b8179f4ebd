# SPDX-License-Identifier: GPL-3.0-or-later
"""The objects that make a repository of a heap of content: manifest, whitelist, history, reflog, lease."""

from .history import History, Tag
from .lease import Lease
from .manifest import Manifest
from .reflog import Reflog
from .repository import Repository
from .settings import ServerConfig
from .signing import Certificate, MasterKey, RepositoryKey, Signer
from .whitelist import Whitelist

__all__ = [
    "Certificate",
    "History",
    "Lease",
    "Manifest",
    "MasterKey",
    "Reflog",
    "Repository",
    "RepositoryKey",
    "ServerConfig",
    "Signer",
    "Tag",
    "Whitelist",
]
