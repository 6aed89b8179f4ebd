# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a new revision of what the open transaction holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...operations.environment import Environment
from ...operations.publish import PublishOptions, preview, publish
from .. import output
from ..arguments import add_json, add_refused, repository_and_path, whole_number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", dest="tag", metavar="TAG", help="name of the new revision")
    parser.add_argument("-m", dest="tag_description", default="", metavar="TEXT", help="description of the tag")
    parser.add_argument(
        "-n", dest="revision", type=whole_number(1, 2**62), metavar="NUMBER", help="number of the new revision"
    )
    parser.add_argument(
        "-Z", dest="compression", metavar="ALGORITHM", help="compression of this publish: default or none"
    )
    parser.add_argument("-v", dest="verbose", action="store_true", help="print each path that changes")
    parser.add_argument("-f", dest="force_remount", action="store_true", help=argparse.SUPPRESS)
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "-X",
        dest="external",
        action="store_true",
        default=None,
        help="publish new files as external, without storing them",
    )
    data.add_argument(
        "-N",
        dest="external",
        action="store_false",
        default=None,
        help="store new files, whatever the configuration says",
    )
    parser.add_argument(
        "-d", dest="direct_io", action="store_true", help="let clients not keep new files in page cache"
    )
    parser.add_argument(
        "-F", dest="authz_file", type=Path, metavar="FILE", help="new membership requirement; an empty file ends it"
    )
    add_refused(parser, "-p", "there are no catalogs on disk to be tweaked; change the source")
    add_refused(parser, "-c", "tags have no channels any more; leave it out")
    add_refused(parser, "-e", "gateways no longer need it; leave it out")
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
        external=options.external,
        direct_io=options.direct_io,
        authz_file=options.authz_file,
        checksum=options.checksum,
        transaction_id=options.transaction,
    )
    operation = preview if options.dry_run else publish
    tell = output.print_path(name) if options.verbose and not options.json else None
    result = operation(environment, name, changes, publish_options, tell=tell)
    output.print_publish(result, json=options.json)
    return 0
