# SPDX-License-Identifier: GPL-3.0-or-later
"""Delete what no preserved revision of a garbage-collectable repository needs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import PublisherError, RepositoryError
from ...operations.dates import point_in_time
from ...operations.environment import Environment
from ...operations.gc import GcOptions, GcReport, collect, collectable
from .. import output
from ..arguments import add_json, add_repository, whole_number

_DEFAULT_AGE = "3 days ago"
_ORPHANS_AGE = "1 day ago"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    preserved = parser.add_mutually_exclusive_group()
    preserved.add_argument(
        "-r",
        dest="revisions",
        type=whole_number(0),
        metavar="NUMBER",
        help="preserve that many revisions before the newest",
    )
    preserved.add_argument(
        "-t",
        dest="newer_than",
        metavar="DATE",
        help=f"preserve revisions that are newer, in the words of date(1) (default: {_DEFAULT_AGE})",
    )
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="list the storage, and delete objects that no revision names, as interrupted publishes leave them",
    )
    parser.add_argument(
        "--orphans-before",
        metavar="DATE",
        default=_ORPHANS_AGE,
        help=f"those written before that date only (default: {_ORPHANS_AGE})",
    )
    parser.add_argument("-d", dest="dry_run", action="store_true", help="delete nothing, and say what would be deleted")
    parser.add_argument("-l", dest="list", action="store_true", help="print the names of deleted objects")
    parser.add_argument(
        "-L",
        dest="deletion_log",
        metavar="FILE",
        help="append the names of deleted objects to FILE (default: CVMFS_GC_DELETION_LOG)",
    )
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask")
    parser.add_argument("-a", dest="all", action="store_true", help="collect all garbage-collectable repositories")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if options.all and options.repository is None:
        names = collectable(environment)
        if not names:
            raise RepositoryError(
                "There are no garbage-collectable repositories", remedy="Set CVMFS_GARBAGE_COLLECTION=true"
            )
    else:
        names = [environment.resolve(options.repository)]
    newer_than = 0
    if options.revisions is None:
        newer_than = point_in_time(options.newer_than or _DEFAULT_AGE, "-t")
    gc_options = GcOptions(
        revisions=options.revisions,
        newer_than=newer_than,
        orphans_before=point_in_time(options.orphans_before, "--orphans-before") if options.orphans else None,
        dry_run=options.dry_run,
        deletion_log=Path(options.deletion_log) if options.deletion_log else None,
    )
    if not options.force and not options.dry_run:
        kept = f"newer than {options.newer_than or _DEFAULT_AGE}" if options.revisions is None else ""
        kept = kept or f"the newest and {options.revisions} before it"
        question = (
            f"You are about to delete data of {', '.join(names)}; "
            f"preserved are named snapshots, and revisions {kept}.\nAre you sure (y/N)? "
        )
        if not output.confirm(question):
            return 1
    tell = (lambda name: print(f"Sweep: {name}")) if options.list and not options.json else None
    code = 0
    for name in names:
        try:
            report = collect(environment, name, gc_options, tell=tell)
        except PublisherError as error:
            if not options.all:
                raise
            print(f"cvmfs_server gc: {name}: {error}", file=sys.stderr)
            code = 1
        else:
            output.print_json(report) if options.json else _print(report)
    return code


def _print(report: GcReport) -> None:
    for warning in report.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    verb = "would be deleted" if report.dry_run else "deleted"
    size = f" ({report.condemned_bytes} bytes of data)" if report.condemned_bytes is not None else ""
    orphans = f", {report.orphans} of them ({report.orphan_bytes} bytes) named by no revision" if report.orphans else ""
    print(
        f"{report.repository}: {report.preserved_revisions} revisions preserved; "
        f"{report.condemned_revisions} revisions and {report.condemned_objects} objects{size} {verb}{orphans}."
    )
