# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a repository is whole: signatures, catalogs, counters, and the existence of every object."""

from __future__ import annotations

import argparse
import sys

from ...operations.check import check
from ...operations.environment import Environment
from ...operations.reflogs import repair_reflog
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", dest="skip_objects", action="store_true", help="do not look whether the objects exist")
    parser.add_argument("-i", dest="integrity", action="store_true", help="read every object and compare its hash")
    parser.add_argument("-t", dest="tag", metavar="TAG", help="check this tag instead of the newest revision")
    parser.add_argument(
        "-s", dest="subtree", default="", metavar="PATH", help="check only the nested catalog at PATH and those below"
    )
    parser.add_argument(
        "-r", "--repair-reflog", action="store_true", help="first repair the reflog, or rebuild it if it is lost"
    )
    parser.add_argument(
        "--repair-from",
        metavar="PLACE",
        help="put missing or damaged objects back from there: the URL of a replica, its directory, or a directory "
        "with the published files",
    )
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    if options.repair_reflog:
        done = repair_reflog(environment, name)
        print(f"{done}." if done else "The reflog needs no repair.", file=sys.stderr)
    report = check(
        environment,
        name,
        objects=not options.skip_objects,
        integrity=options.integrity,
        tag=options.tag,
        subtree=options.subtree,
        repair_from=options.repair_from,
    )
    if options.json:
        output.print_json(report)
    else:
        for key in report.repaired:
            print(f"Repaired: {key}", file=sys.stderr)
        for warning in report.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        for problem in report.problems:
            print(problem, file=sys.stderr)
        verdict = "no problems" if not report.problems else f"{len(report.problems)} problems"
        print(
            f"Checked {report.catalogs} catalogs, {report.entries} entries, {report.objects} objects: {verdict} found."
        )
    return 1 if report.problems else 0
