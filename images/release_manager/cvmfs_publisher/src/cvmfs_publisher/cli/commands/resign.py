# SPDX-License-Identifier: GPL-3.0-or-later
"""Sign the whitelist again with the master key; an open transaction does not matter.

To roll a repository key over: put the new key and certificate in place; resign, which lists both certificates; sign the
manifest with the new key (-p, or the next publish); resign, which lists the new certificate alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...errors import UsageError
from ...operations.environment import Environment
from ...operations.resign import resign_manifest, resign_whitelist, resign_whitelist_file, upload_whitelist
from ...repository import Certificate, Whitelist
from .. import output
from ..arguments import add_json, read_whitelist, whole_number

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
    parser.add_argument(
        "-f",
        dest="force",
        action="store_true",
        help="do not ask whether a long life time is meant; with -p: even if the whitelist does not list the "
        "certificate that the manifest is signed with now",
    )
    parser.add_argument(
        "-p", dest="published", action="store_true", help="sign .cvmfspublished with the repository key instead"
    )
    parser.add_argument(
        "-w",
        dest="file",
        type=Path,
        metavar="FILE",
        help="sign the whitelist in this file, for the certificates that it lists; needs no configuration",
    )
    parser.add_argument(
        "--signed",
        metavar="FILE",
        help="put this whitelist in place, which was signed elsewhere (- for standard input); needs no master key",
    )
    parser.add_argument(
        "--replaces",
        metavar="SHA256",
        help="with --signed: replace the whitelist with this digest and no other; none, if there is to be none",
    )
    parser.add_argument(
        "--changes",
        action="append",
        default=[],
        metavar="FINGERPRINT",
        help="with --signed: one of both whitelists may list this certificate, and the other need not; may be given "
        "several times",
    )
    parser.add_argument(
        "--also",
        dest="also",
        action="append",
        default=[],
        type=Path,
        metavar="CRT",
        help="list this certificate, too; may be given several times",
    )
    parser.add_argument(
        "--only",
        action="store_true",
        help="drop the certificate of the current revision, too, as for a stolen key: clients refuse that revision "
        "until it is signed again (-p -f)",
    )
    add_json(parser)
    parser.add_argument("repositories", nargs="*", metavar="FQRN", help="repository names")


def run(options: argparse.Namespace) -> int:
    _check(options)
    environment = Environment.of_process()
    days = options.days or _LONG_DAYS
    question = (
        f"A whitelist that is valid for more than {_LONG_DAYS} days makes a stolen repository key worse.\n"
        f"Are you sure you want to do this (y/N)? "
    )
    if days > _LONG_DAYS and not options.force and not output.confirm(question):
        return 1
    also = [Certificate.load(file) for file in options.also]
    for name in options.repositories or [environment.resolve(None)]:
        environment.resolve(name)
        if options.published:
            manifest, warnings = resign_manifest(environment, name, force=options.force)
            output.warn(warnings)
            message = f"Signed revision {manifest.revision} of {name} again."
            output.print_json({"repository": name, "revision": manifest.revision}) if options.json else print(message)
        elif options.signed is not None:
            signed = read_whitelist(options.signed)
            whitelist = upload_whitelist(environment, name, signed, replaces=options.replaces, changes=options.changes)
            _print(whitelist, json=options.json)
        elif options.file is not None:
            whitelist = resign_whitelist_file(environment.master_key(name), options.file, name, days=days)
            _print(whitelist, json=options.json)
        else:
            whitelist = resign_whitelist(environment, name, days=days, also=also, only=options.only)
            _print(whitelist, json=options.json)
            if len(whitelist.fingerprints) > 1 + len(also):
                print(
                    f"Warning: it lists two certificates, as {name} is signed with the old one. "
                    f"Sign it with the new one (cvmfs_server resign -p {name}), then the whitelist once more.",
                    file=sys.stderr,
                )
    return 0


def _check(options: argparse.Namespace) -> None:
    remedy = "Call it twice"
    about_whitelists = (
        ("-d", options.days),
        ("-w", options.file),
        ("--also", options.also),
        ("--only", options.only),
        ("--signed", options.signed),
    )
    for option, given in about_whitelists:
        if options.published and given:
            raise UsageError(f"-p signs no whitelist, which {option} is about", remedy=remedy)
        if options.signed is not None and given and option != "--signed":
            raise UsageError(f"--signed signs no whitelist, which {option} is about", remedy=remedy)
    for option, given in (("--replaces", options.replaces), ("--changes", options.changes)):
        if given and options.signed is None:
            raise UsageError(f"{option} is about a whitelist that was signed elsewhere", remedy="Give it with --signed")
    if options.replaces and options.changes:
        raise UsageError("--replaces allows any change of the one that it names", remedy="Leave --changes out")
    for option, given in (("--also", options.also), ("--only", options.only)):
        if options.file is not None and given:
            raise UsageError(f"-w keeps the certificates of its file, so {option} makes no sense", remedy=remedy)
    for option, given in (("-w", options.file), ("--signed", options.signed)):
        if given is not None and len(options.repositories) != 1:
            raise UsageError(f"{option} is about one repository", remedy="Name it")


def _print(whitelist: Whitelist, *, json: bool) -> None:
    name, expires = whitelist.repository, whitelist.expires
    if json:
        output.print_json({"repository": name, "expires": expires.isoformat(), "fingerprints": whitelist.fingerprints})
    else:
        print(f"The whitelist of {name} is valid until {expires:%Y-%m-%d %H:%M:%S} UTC.")
