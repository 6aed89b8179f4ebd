# SPDX-License-Identifier: GPL-3.0-or-later
"""Print a summary of a repository."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...operations.environment import Environment
from ...operations.info import info
from .. import output
from ..arguments import add_json, add_refused, add_repository_or_url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--meta-info", action="store_true", help="print the repository's meta information too")
    parser.add_argument(
        "-k", "--keychain", type=Path, metavar="PATH", help="public master key, or a directory that has it"
    )
    for flag in ("-s", "--stats"):
        add_refused(parser, flag, "there are no statistics of reading; leave it out")
    add_json(parser)
    add_repository_or_url(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    result = info(environment, environment.resolve_for_reading(options.repository), options.keychain)
    if options.json:
        output.print_json(result)
        return 0
    print(f"Repository name: {result.repository}")
    if result.creator:
        print(f"Created by CernVM-FS {result.creator}")
    print(f"Revision: {result.revision}, root catalog {result.root_hash.hex}")
    print(f"Stratum1 replication allowed: {'yes' if result.replicable else 'no'}")
    if result.whitelist_valid_days < 0:
        print("Whitelist is expired")
    else:
        print(f"Whitelist is valid for another {result.whitelist_valid_days} days")
    print(
        f"\nClient configuration:\n"
        f"Add {result.repository} to CVMFS_REPOSITORIES in /etc/cvmfs/default.local\n"
        f"Create /etc/cvmfs/config.d/{result.repository}.conf and set\n"
        f"  CVMFS_SERVER_URL={result.stratum0_url}\n"
        f"  CVMFS_PUBLIC_KEY={result.public_key}\n"
        f"Copy {result.public_key} to the client"
    )
    if options.meta_info:
        print(f"\nMeta info:\n{result.meta_info}")
    return 0
