# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repository's beginning, its properties, and its end, through its release manager. Private to the collection."""

from __future__ import annotations

from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import KEYS_DIR, S3_DIR

_MOUNTED = "/etc/cvmfs/"  # where a container has keys and configuration
_NOTHING = {"version": 1, "changes": []}


def create(release_manager, *, masterkey, owner, warn):
    """Create the repository as server.conf says, with the keys that are there. PublishingError."""
    settings = release_manager.settings()
    with release_manager.masterkey(masterkey, warn=warn) as secret:
        release_manager.server_once(extra_secrets=secret, without_configuration=True).mkfs(
            stratum0_url=release_manager.stratum0_url.rpartition("/")[0],
            s3_config=f"{S3_DIR}/{release_manager.fqrn}.conf",
            keychain=KEYS_DIR,
            owner=owner,
            hash_algorithm=settings.get("CVMFS_HASH_ALGORITHM"),
            compression=settings.get("CVMFS_COMPRESSION_ALGORITHM"),
            auto_tag=settings.get("CVMFS_AUTO_TAG") != "false",
            auto_tag_timespan=settings.get("CVMFS_AUTO_TAG_TIMESPAN"),
            garbage_collectable=settings.get("CVMFS_GARBAGE_COLLECTION") == "true",
        )


def properties(manifest):
    """Return those of a manifest that server.conf has a say in."""
    return {"ttl": manifest.ttl, "garbage_collectable": manifest.garbage_collectable}


def wanted_properties(release_manager):
    """Return what server.conf says about these; what it leaves open is not among them."""
    settings = release_manager.settings()
    wanted = {}
    if settings.get("CVMFS_REPOSITORY_TTL", "0") != "0":
        wanted["ttl"] = int(settings["CVMFS_REPOSITORY_TTL"])
    if settings.get("CVMFS_GARBAGE_COLLECTION"):
        wanted["garbage_collectable"] = settings["CVMFS_GARBAGE_COLLECTION"] == "true"
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
