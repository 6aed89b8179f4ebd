# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a repository is whole: signatures, catalogs, counters, and the existence of every object."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import ConfigurationError, PublisherError, UsageError
from ...operations.check import check, checked_lately, note_check
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
    parser.add_argument(
        "-x", dest="scratch", type=Path, metavar="DIR", help="keep temporary files there (default: the spool directory)"
    )
    parser.add_argument(
        "-a",
        dest="all",
        action="store_true",
        help="check all repositories that are configured here, but for those that it has found whole lately: see "
        "CVMFS_CHECK_ALL_MIN_DAYS",
    )
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if not options.all:
        return _check(environment, environment.resolve(options.repository), options)
    if options.repository is not None or options.tag or options.subtree or options.repair_from or options.json:
        raise UsageError(
            "-a checks all repositories", remedy="Leave it out, or else the name, -t, -s, --repair-from and --json"
        )
    names = environment.names()
    if not names:
        raise ConfigurationError(
            f"No repositories are configured in {environment.config_dir}", remedy="Configure one: see mkfs and import"
        )
    codes = [0]
    for name in names:
        print(f"{name}:", flush=True)
        try:
            lately = checked_lately(environment, name)
            if lately is not None:
                print(f"Found whole on {output.stringify_time(int(lately))} (UTC); see CVMFS_CHECK_ALL_MIN_DAYS.")
                continue
            codes.append(_check(environment, name, options))
        except PublisherError as error:
            print(f"cvmfs_server check: {name}: {error}", file=sys.stderr)
            codes.append(error.exit_code)
        output.warn(note_check(environment, name, is_whole=codes[-1] == 0))
    return max(codes)


def _check(environment: Environment, name: str, options: argparse.Namespace) -> int:
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
        scratch=options.scratch,
    )
    if not (report.problems or options.all or options.tag or options.subtree):
        report.warnings += note_check(environment, name, is_whole=True, first=False)
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
