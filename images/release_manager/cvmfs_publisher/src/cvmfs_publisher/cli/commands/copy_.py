# SPDX-License-Identifier: GPL-3.0-or-later
"""Copy a repository from or to another storage, while it is in use.

What is there is not copied again, so a second copy brings over what is new. Objects are compared with their names on
the way, and the manifest comes last. Nothing is signed. What was signed later in the destination stays.
"""

from __future__ import annotations

import argparse

from ...operations.copy_ import CopyOptions, copy
from ...operations.environment import Environment
from ...progress import format_bytes
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    other = parser.add_mutually_exclusive_group(required=True)
    other.add_argument(
        "--from",
        dest="source",
        metavar="STORAGE",
        help="copy from there to the configured storage: local,TMP,DIR or S3,TMP,PREFIX@FILE",
    )
    other.add_argument(
        "--to", dest="destination", metavar="STORAGE", help="copy from the configured storage to there; as --from"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a repository that is no older state of the one that is copied, or is signed with a later key: "
        "clients refuse it then until it is signed with that (resign -p -f)",
    )
    parser.add_argument("--dry-run", action="store_true", help="copy nothing, and say how much there is to copy")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    result = copy(
        environment,
        environment.resolve(options.repository),
        CopyOptions(
            source=options.source,
            destination=options.destination,
            overwrite=options.overwrite,
            dry_run=options.dry_run,
        ),
    )
    output.warn(result.warnings)
    if options.json:
        output.print_json(result)
    else:
        verb = "are to be copied" if result.dry_run else "copied"
        print(
            f"{result.repository}: {result.objects} objects ({format_bytes(result.bytes)}) {verb} from {result.source} "
            f"to {result.destination}, {result.present} were there; revision {result.revision}."
        )
    return 0
