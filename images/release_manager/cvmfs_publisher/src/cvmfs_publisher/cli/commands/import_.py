# SPDX-License-Identifier: GPL-3.0-or-later
"""Make configuration and keys here for a repository that is there already.

It needs no master key while the whitelist is valid, and takes the options that the repository was made with from the
repository itself. A second time it changes nothing; it never overwrites.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...operations.environment import Environment
from ...operations.import_ import ImportOptions, import_repository
from .. import output
from ..arguments import add_json, add_refused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-w", dest="stratum0_url", metavar="URL", help="URL of the repository; by default the bucket's own"
    )
    parser.add_argument("-u", dest="upstream_storage", metavar="STORAGE", help="local,TMP,DIR or S3,TMP,PREFIX@FILE")
    parser.add_argument("-o", dest="owner", help="user that owns new content (default: who owns the root directory)")
    parser.add_argument(
        "-k", dest="keychain", type=Path, metavar="DIR", help="directory with the keys (default: the key directory)"
    )
    parser.add_argument("-m", dest="replicable", action="store_true", help="allow replication")
    parser.add_argument("-g", dest="chown_storage", action="store_true", help="give the local storage to the owner")
    parser.add_argument(
        "-r", dest="recreate_whitelist", action="store_true", help="sign the whitelist again, with the master key"
    )
    parser.add_argument(
        "-t",
        dest="recreate_key",
        action="store_true",
        help="make a new repository key and certificate, and sign the current revision with it; needs -r",
    )
    parser.add_argument(
        "-f", dest="union_fs", metavar="TYPE", help="union file system; recorded, not needed by this engine"
    )
    parser.add_argument("-x", dest="proxy", metavar="URL", help="proxy through which CernVM-FS's own tools read")
    parser.add_argument("-p", dest="no_apache", action="store_true", help="configure no Apache; this engine never does")
    for flag, what in (
        ("-l", "only CernVM-FS's own tools migrate catalogs of CernVM-FS 2.0"),
        ("-s", "it is about -l, which is not either"),
        ("-c", "it is about -l, which is not either; use -o"),
        ("-R", "hand the master key over as a secret, for this command alone, and use -r"),
    ):
        add_refused(parser, flag, what)
    add_json(parser)
    parser.add_argument("repository", metavar="FQRN", help="fully qualified name of the repository")


def run(options: argparse.Namespace) -> int:
    result = import_repository(
        Environment.of_process(),
        options.repository,
        ImportOptions(
            stratum0_url=options.stratum0_url,
            upstream_storage=options.upstream_storage,
            owner=options.owner,
            keychain=options.keychain,
            union_fs=options.union_fs,
            proxy=options.proxy,
            replicable=options.replicable,
            chown_storage=options.chown_storage,
            recreate_whitelist=options.recreate_whitelist,
            recreate_key=options.recreate_key,
        ),
    )
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if options.json:
        output.print_json(result)
    elif result.changed:
        print(f"Imported {result.repository} from {result.storage}, revision {result.revision}.")
        print(f"Clients find it at {result.stratum0_url}.")
    else:
        print(f"{result.repository} is imported already; nothing was changed.")
    return 0
