# SPDX-License-Identifier: GPL-3.0-or-later
"""Create, move, remove, inspect and list named snapshots; list branches."""

from __future__ import annotations

import argparse

from ...operations import tags
from ...operations.environment import Environment
from .. import output
from ..arguments import add_json, add_refused, add_repository_or_url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group()
    action.add_argument("-a", dest="add", metavar="TAG", help="create a tag, or with -h move it")
    action.add_argument(
        "-r", dest="remove", action="append", metavar="TAG", help="remove a tag, or several with blanks between them"
    )
    action.add_argument("-i", dest="inspect", metavar="TAG", help="show one tag")
    action.add_argument("-b", dest="branches", action="store_true", help="list the hierarchy of branches")
    action.add_argument("-l", dest="list", action="store_true", help="list all tags (the default)")
    parser.add_argument("-m", dest="description", default="", metavar="TEXT", help="description of the new tag")
    parser.add_argument(
        "-h", "--hash", dest="root_hash", metavar="HASH", help="root catalog of the new tag (default: the newest)"
    )
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask before a tag is removed")
    add_machine_readable(parser)
    add_refused(parser, "-c", "tags have no channels any more; leave it out")
    add_json(parser)
    add_repository_or_url(parser)


def add_machine_readable(parser: argparse.ArgumentParser) -> None:
    """Declare the option for scripts."""
    parser.add_argument(
        "-x",
        dest="machine_readable",
        action="store_true",
        help="one line of fields for each tag or branch, as upstream prints it",
    )


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    if options.add is not None:
        return _add(environment, environment.resolve(options.repository), options)
    if options.remove is not None:
        return _remove(environment, environment.resolve(options.repository), options)
    name = environment.resolve_for_reading(options.repository)
    if options.inspect is not None:
        tag = tags.inspect(environment, name, options.inspect)
        output.print_json(tag) if options.json else output.print_tag(tag, machine_readable=options.machine_readable)
    elif options.branches:
        branches = tags.list_branches(environment, name)
        if options.json:
            output.print_json({"repository": name, "branches": [output.plain(branch) for branch in branches]})
        else:
            output.print_branches(branches, machine_readable=options.machine_readable)
    else:
        print_list(environment, name, options)
    return 0


def print_list(environment: Environment, name: str, options: argparse.Namespace) -> None:
    """Print all tags."""
    all_tags = tags.list_tags(environment, name)
    if options.json:
        output.print_json({"repository": name, "tags": [output.plain(tag) for tag in all_tags]})
    else:
        output.print_tags(all_tags, machine_readable=options.machine_readable)


def _add(environment: Environment, name: str, options: argparse.Namespace) -> int:
    tag, warnings = tags.add(
        environment, name, options.add, description=options.description, root_hash=options.root_hash
    )
    output.warn(warnings)
    output.print_json(tag) if options.json else print(f"Tagged revision {tag.revision} of {name} as {tag.name}.")
    return 0


def _remove(environment: Environment, name: str, options: argparse.Namespace) -> int:
    names = [word for argument in options.remove for word in argument.split(" ") if word]
    listed = "".join(f"* {tag}\n" for tag in names)
    question = f"You are about to remove these tags from {name}:\n{listed}\nAre you sure (y/N)? "
    if not options.force and not output.confirm(question):
        return 1
    removed, warnings = tags.remove(environment, name, names)
    output.warn(warnings)
    if options.json:
        output.print_json({"repository": name, "removed": [tag.name for tag in removed]})
    else:
        for tag in removed:
            print(f"deleting '{tag.name}' ({tag.root_hash.hex})")
    return 0
