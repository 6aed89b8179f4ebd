# SPDX-License-Identifier: GPL-3.0-or-later
"""What the subcommands have in common that write all catalogs anew."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..operations.environment import Environment
from ..operations.rewrite import RewriteResult
from . import output
from .arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what they take."""
    parser.add_argument("-f", dest="force", action="store_true", help="do not ask")
    add_json(parser)
    add_repository(parser)


def run_rewrite(
    options: argparse.Namespace, operation: Callable[[Environment, str], RewriteResult], consequence: str
) -> int:
    """Ask, do it, and print the result.

    :param consequence: what it means for the repository, which stands for `{name}` in it
    """
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    question = f"{consequence.format(name=name)}\nAre you sure (y/N)? "
    if not options.force and not output.confirm(question):
        return 1
    output.print_rewrite(operation(environment, name), json=options.json)
    return 0
