# SPDX-License-Identifier: GPL-3.0-or-later
"""Create, remove and list named snapshots."""

from __future__ import annotations

import argparse

from ...operations import tags
from ...operations.environment import Environment
from .. import output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    action = parser.add_mutually_exclusive_group()
    action.add_argument("-a", dest="add", metavar="TAG", help="create a tag")
    action.add_argument("-r", dest="remove", action="append", metavar="TAG", help="remove a tag; repeatable")
    action.add_argument("-i", dest="inspect", metavar="TAG", help="show one tag")
    action.add_argument("-l", dest="list", action="store_true", help="list all tags (the default)")
    parser.add_argument("-m", dest="description", default="", metavar="TEXT", help="description of the new tag")
    parser.add_argument(
        "-h", "--hash", dest="root_hash", metavar="HASH", help="root catalog of the new tag (default: the newest)"
    )
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask before a tag is removed")
    parser.add_argument(
        "-x",
        dest="machine_readable",
        action="store_true",
        help="one line of fields for each tag, as upstream prints it",
    )
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    if options.add:
        tag = tags.add(environment, name, options.add, description=options.description, root_hash=options.root_hash)
        output.print_json(tag) if options.json else print(f"Tagged revision {tag.revision} of {name} as {tag.name}.")
    elif options.remove:
        question = f"You are about to remove these tags from {name}: {', '.join(options.remove)}\nAre you sure (y/N)? "
        if not options.force and not output.confirm(question):
            return 1
        tags.remove(environment, name, options.remove)
        if options.json:
            output.print_json({"repository": name, "removed": options.remove})
    elif options.inspect:
        tag = tags.inspect(environment, name, options.inspect)
        output.print_json(tag) if options.json else output.print_tag(tag, machine_readable=options.machine_readable)
    else:
        all_tags = tags.list_tags(environment, name)
        if options.json:
            output.print_json({"repository": name, "tags": [output.plain(tag) for tag in all_tags]})
        else:
            output.print_tags(all_tags, machine_readable=options.machine_readable)
    return 0
