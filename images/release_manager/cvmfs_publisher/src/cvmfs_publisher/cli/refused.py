# SPDX-License-Identifier: GPL-3.0-or-later
"""Subcommands of upstream's that this engine does not have, and what to do instead. They end with exit code 3."""

from __future__ import annotations

_STRATUM_1 = (
    "replicas are made by Stratum 1 servers, not by a release manager",
    "Run CernVM-FS's own cvmfs_server on the Stratum 1 server",
)

REFUSED = {
    "add-replica": _STRATUM_1,
    "snapshot": _STRATUM_1,
    "update-geodb": (
        "only Stratum 1 servers sort others by distance",
        "Run CernVM-FS's own cvmfs_server on the Stratum 1 server",
    ),
    "connect-gw": (
        "no repository gateway is needed: a lease in the storage itself orders publishers, and all share that",
        "Configure the repository on each host with import, on S3 storage",
    ),
    "refresh-lease": (
        "leases are in the storage, and are kept while a publish runs",
        "There is nothing to do: a transaction whose lease has expired goes on unless somebody else has begun one",
    ),
    "ingestsql": (
        "it takes databases that only tools of CernVM-FS write",
        "Use publish --changes, or ingest: --tar_file, --directory, --image or --s3",
    ),
    "overlay": (
        "layers are merged while they are published",
        "Use ingest --image, with all layers of the image",
    ),
    "alterfs": (
        "CernVM-FS itself has not had it since 2.1",
        "Change the settings in server.conf; the next publish takes them",
    ),
    "fix-permissions": (
        "this engine's programs have no capabilities of their own",
        "There is nothing to fix",
    ),
    "masterkeycard": (
        "this engine does not use smart cards",
        "Keep the master key on another machine, and sign whitelists there: mkfs --whitelist, resign --signed",
    ),
}
"""Why there is no such subcommand, and what to do instead."""


def refusal(command: str) -> str | None:
    """Return the message for a subcommand that there is not; None for any other word."""
    if command not in REFUSED:
        return None
    reason, remedy = REFUSED[command]
    return f"cvmfs_server {command}: There is no such subcommand in this engine: {reason}. {remedy}."
