# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a new revision of what the open transaction holds."""

from __future__ import annotations

import argparse

from ...operations.environment import Environment
from ...operations.publish import PublishOptions, preview, publish
from .. import output
from ..arguments import add_json, repository_and_path, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", dest="tag", metavar="TAG", help="name of the new revision")
    parser.add_argument("-m", dest="tag_description", default="", metavar="TEXT", help="description of the tag")
    parser.add_argument(
        "-n", dest="revision", type=whole_number(1), metavar="NUMBER", help="number of the new revision"
    )
    parser.add_argument(
        "-Z", dest="compression", metavar="ALGORITHM", help="compression of this publish: default or none"
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="print each path that changes")
    parser.add_argument("-f", dest="force_remount", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-N", dest="native_data", action="store_true", help=argparse.SUPPRESS)
    output.add_change_set(parser)
    parser.add_argument("--transaction", metavar="ID", help="publish only if this is the open transaction")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would change; needs no transaction and no keys"
    )
    add_json(parser)
    parser.add_argument("repository", nargs="?", metavar="FQRN", help="repository name")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(repository_and_path(options.repository)[0])
    changes = output.read_change_set(options)
    publish_options = PublishOptions(
        tag=options.tag,
        tag_description=options.tag_description,
        revision=options.revision,
        compression=options.compression,
        checksum=options.checksum,
        transaction_id=options.transaction,
    )
    operation = preview if options.dry_run else publish
    result = operation(environment, name, changes, publish_options)
    output.print_publish(result, json=options.json, verbose=options.verbose)
    return 0
