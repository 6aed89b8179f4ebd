# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove repositories: their configuration, keys and spool directory here, and their storage if it is a directory.

A bucket stays as it is, unless --delete-storage says otherwise.
"""

from __future__ import annotations

import argparse
import sys

from ...operations.environment import Environment
from ...operations.rmfs import RmfsResult, deletes_storage, rmfs
from .. import output
from ..arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", dest="preserve", action="store_true", help="keep the keys, and a directory as storage")
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask whether it is meant")
    parser.add_argument(
        "--delete-storage", action="store_true", help="delete everything in the storage; nobody can undo that"
    )
    add_json(parser)
    parser.add_argument("repositories", nargs="*", metavar="FQRN", help="repository names")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if options.preserve and options.delete_storage:
        print("cvmfs_server rmfs: -p and --delete-storage exclude each other.", file=sys.stderr)
        return 3
    for name in options.repositories or [environment.resolve(None)]:
        environment.resolve(name)
        if not options.force and not _is_meant(environment, name, options):
            continue
        result = rmfs(environment, name, preserve=options.preserve, delete_storage=options.delete_storage)
        for warning in result.warnings:
            print(f"Warning: {warning}", file=sys.stderr)
        output.print_json(result) if options.json else _print(result)
    return 0


def _is_meant(environment: Environment, name: str, options: argparse.Namespace) -> bool:
    settings = environment.settings(name)
    if deletes_storage(settings, preserve=options.preserve, delete_storage=options.delete_storage):
        keys = "" if options.preserve else " INCLUDING SIGNING KEYS"
        question = f"You are about to WIPE OUT THE CERNVM-FS REPOSITORY {name}{keys}!"
    else:
        question = f"You are about to REMOVE THE CERNVM-FS REPOSITORY INFRASTRUCTURE for {name}!"
    if options.delete_storage:
        return output.ask(f"{question}  Type its name to go on: ") == name
    return output.confirm(f"{question}  Are you sure (y/N)? ")


def _print(result: RmfsResult) -> None:
    for path in result.removed:
        print(f"Removed {path}")
    if result.objects is None:
        print(f"{result.repository} is no longer configured here; its content is still in its storage.")
    else:
        print(f"CernVM-FS repository {result.repository} wiped out: {result.objects} objects deleted.")
