# SPDX-License-Identifier: GPL-3.0-or-later
"""Sign the whitelist again with the master key; an open transaction does not matter."""

from __future__ import annotations

import argparse
import sys

from ...operations.environment import Environment
from ...operations.resign import resign_manifest, resign_whitelist
from .. import output
from ..arguments import add_json, whole_number

_LONG_DAYS = 30
_MOST_DAYS = 36500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-d",
        dest="days",
        type=whole_number(1, _MOST_DAYS),
        metavar="DAYS",
        help="days until the whitelist expires (default: 30)",
    )
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask whether a long life time is meant")
    parser.add_argument(
        "-p", dest="published", action="store_true", help="sign .cvmfspublished with the repository key instead"
    )
    add_json(parser)
    parser.add_argument("repositories", nargs="*", metavar="FQRN", help="repository names")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    days = options.days or _LONG_DAYS
    question = (
        f"A whitelist that is valid for more than {_LONG_DAYS} days makes a stolen repository key worse.\n"
        f"Are you sure you want to do this (y/N)? "
    )
    if not options.published and days > _LONG_DAYS and not options.force and not output.confirm(question):
        return 1
    for name in options.repositories or [environment.resolve(None)]:
        if options.published:
            manifest = resign_manifest(environment, environment.resolve(name))
            message = f"Signed revision {manifest.revision} of {name} again."
            document = {"repository": name, "revision": manifest.revision}
        else:
            whitelist = resign_whitelist(environment, environment.resolve(name), days=days)
            message = f"The whitelist of {name} is valid until {whitelist.expires:%Y-%m-%d %H:%M:%S} UTC."
            document = {"repository": name, "expires": whitelist.expires.isoformat()}
            if len(whitelist.fingerprints) > 1:
                print(
                    f"Warning: it lists two certificates, as {name} is signed with the old one. "
                    f"Sign it with the new one (cvmfs_server resign -p {name}), then the whitelist once more.",
                    file=sys.stderr,
                )
        output.print_json(document) if options.json else print(message)
    return 0
