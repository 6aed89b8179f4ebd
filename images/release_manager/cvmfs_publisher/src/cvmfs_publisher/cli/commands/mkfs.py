# SPDX-License-Identifier: GPL-3.0-or-later
"""Create a new repository."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...operations.environment import Environment
from ...operations.mkfs import MkfsOptions, mkfs
from .. import output
from ..arguments import add_json, add_refused, read_whitelist


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-w", dest="stratum0_url", metavar="URL", help="URL under which clients find the storage")
    parser.add_argument("-u", dest="upstream_storage", metavar="STORAGE", help="local,TMP,DIR or S3,TMP,PREFIX@FILE")
    parser.add_argument(
        "-s", dest="s3_config", type=Path, metavar="FILE", help="S3 configuration; with -w the bucket's URL"
    )
    parser.add_argument("-o", dest="owner", help="user that owns the repository's content")
    parser.add_argument(
        "-k", dest="keychain", type=Path, metavar="DIR", help="directory with existing keys, or a master key alone"
    )
    parser.add_argument("-a", dest="hash_algorithm", help="hash algorithm (default: sha1)")
    parser.add_argument("-Z", dest="compression", help="compression algorithm: default or none")
    parser.add_argument("-g", dest="auto_tag", action="store_false", help="do not tag revisions automatically")
    parser.add_argument(
        "-G", dest="auto_tag_timespan", metavar="TIMESPAN", help="age at which automatic tags are removed"
    )
    parser.add_argument("-z", dest="garbage_collectable", action="store_true", help="allow garbage collection")
    parser.add_argument("-v", dest="volatile", action="store_true", help="mark the content as volatile")
    parser.add_argument("-m", dest="replicable", action="store_true", help="allow replication, which is always done")
    parser.add_argument("-p", dest="no_apache", action="store_true", help="configure no Apache; this engine never does")
    union = parser.add_mutually_exclusive_group()
    union.add_argument("-f", dest="union_fs", metavar="TYPE", help="union file system; with none as -P")
    union.add_argument(
        "-P",
        dest="union_fs",
        action="store_const",
        const="none",
        help="mountless: transactions mount nothing, unless they are asked to",
    )
    parser.add_argument("-X", dest="external", action="store_true", help="publish files as external by default")
    parser.add_argument(
        "-V", dest="requirement", metavar="TEXT", help="membership requirement: the repository is confidential"
    )
    parser.add_argument(
        "--whitelist",
        dest="whitelist",
        metavar="FILE",
        help="whitelist that was signed elsewhere, or - for standard input; the master key is not needed then",
    )
    add_refused(parser, "-R", "it does not use smart cards; sign a whitelist where the master key is (--whitelist)")
    parser.add_argument("-x", dest="proxy", metavar="URL", help="proxy through which CernVM-FS's own tools read")
    add_refused(parser, "-I", "first remove the repository that is there: rmfs --delete-storage")
    add_refused(parser, "-D", "keys/ has the public key for clients, and info says how they are configured")
    add_json(parser)
    parser.add_argument("repository", metavar="FQRN", help="fully qualified name of the new repository")


def run(options: argparse.Namespace) -> int:
    result = mkfs(
        Environment.of_process(),
        options.repository,
        MkfsOptions(
            stratum0_url=options.stratum0_url,
            upstream_storage=options.upstream_storage,
            s3_config=options.s3_config,
            owner=options.owner,
            keychain=options.keychain,
            hash_algorithm=options.hash_algorithm,
            compression=options.compression,
            auto_tag=options.auto_tag,
            auto_tag_timespan=options.auto_tag_timespan,
            garbage_collectable=options.garbage_collectable,
            volatile=options.volatile,
            union_fs=options.union_fs,
            external=options.external,
            requirement=options.requirement,
            proxy=options.proxy,
            whitelist=read_whitelist(options.whitelist) if options.whitelist is not None else None,
        ),
    )
    for warning in result.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    if options.json:
        output.print_json(result)
    else:
        print(f"Created {result.repository} at {result.storage}, revision {result.revision}.")
        print(f"Clients find it at {result.stratum0_url}.")
        if result.generated_keys:
            master_key = result.keys_dir / f"{result.repository}.masterkey"
            print(f"Back up {master_key} now, and keep it away from this machine.")
    return 0
