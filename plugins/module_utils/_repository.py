# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repository's beginning, its properties, and its end, through its release manager. Private to the collection."""

from __future__ import annotations

import base64

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._http import ObjectMissing
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import KEYS_DIR, S3_DIR

_MOUNTED = "/etc/cvmfs/"  # where a container has keys and configuration
_NOTHING = {"version": 1, "changes": []}
# The words of release managers for what is on and what is off
_ON = ("true", "yes", "on", "1")
_OFF = ("false", "no", "off", "0")


def create(release_manager, *, whitelist, owner):
    """Create the repository as server.conf says, with the keys that are there. PublishingError.

    `whitelist` is signed for these keys, in Base64.
    """
    settings = release_manager.settings()
    release_manager.server_once(without_configuration=True).mkfs(
        stratum0_url=release_manager.stratum0_url.rpartition("/")[0],
        s3_config=f"{S3_DIR}/{release_manager.fqrn}.conf",
        keychain=KEYS_DIR,
        whitelist=base64.b64decode(whitelist),
        owner=owner,
        hash_algorithm=settings.get("CVMFS_HASH_ALGORITHM"),
        compression=settings.get("CVMFS_COMPRESSION_ALGORITHM"),
        auto_tag=_is_on(settings, "CVMFS_AUTO_TAG", default=True),
        auto_tag_timespan=settings.get("CVMFS_AUTO_TAG_TIMESPAN"),
        garbage_collectable=_is_on(settings, "CVMFS_GARBAGE_COLLECTION", default=False),
    )
    try:
        manifest = release_manager.published().manifest()
    except ObjectMissing:
        raise PublishingError(
            f"The repository was created, but {release_manager.stratum0_url} does not show it",
            remedy="Is the URL the one of the bucket in s3.conf?",
        ) from None
    if wanted_properties(release_manager).items() - properties(manifest).items():  # mkfs knows no time to live
        publish_properties(release_manager)


def _is_on(settings, key, *, default):
    """Return what a switch of server.conf is set to. PublishingError if that is neither on nor off."""
    text = settings.get(key)
    if not text:
        return default
    if text.lower() not in _ON + _OFF:
        raise PublishingError(f"{key}={text} in server.conf is neither true nor false", remedy="Write true or false.")
    return text.lower() in _ON


def _number(settings, key):
    """Return what a number of server.conf is set to, by default 0. PublishingError if that is none."""
    text = settings.get(key) or "0"
    if not (text.isascii() and text.isdigit()):
        raise PublishingError(f"{key}={text} in server.conf is no number", remedy="Write digits only.")
    return int(text)


def properties(manifest):
    """Return those of a manifest that server.conf has a say in."""
    return {"ttl": manifest.ttl, "garbage_collectable": manifest.garbage_collectable}


def wanted_properties(release_manager):
    """Return what server.conf says about these; what it leaves open is not among them."""
    settings = release_manager.settings()
    wanted = {}
    ttl = _number(settings, "CVMFS_REPOSITORY_TTL")
    if ttl:
        wanted["ttl"] = ttl
    if settings.get("CVMFS_GARBAGE_COLLECTION"):
        wanted["garbage_collectable"] = _is_on(settings, "CVMFS_GARBAGE_COLLECTION", default=False)
    return wanted


def publish_properties(release_manager):
    """Publish a revision that has nothing new but what server.conf says; return the report. PublishingError."""
    identity = release_manager.begin(sources=())["id"]
    try:
        return release_manager.server().publish(changes=_NOTHING, transaction_id=identity)
    finally:
        release_manager.leave(transaction_id=identity)


def remove(release_manager, *, warn):
    """Delete all that the repository has in its bucket; return how many objects that were. PublishingError."""
    report = release_manager.server_once().rmfs()
    for warning in report["warnings"]:
        if not warning.startswith(_MOUNTED):  # these are mounted, and not the container's to remove
            warn(warning)
    return report["objects"]
