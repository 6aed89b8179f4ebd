# SPDX-License-Identifier: GPL-3.0-or-later
"""List the configured repositories in info/v1 beside them, and change what their server says about itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import UsageError
from ...operations.environment import Environment
from ...operations.server_info import server_meta, update_info
from ...repository import metainfo
from .. import editor, output
from ..arguments import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", dest="no_apache", action="store_true", help="configure no Apache; this engine never does")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("-e", dest="keep", action="store_true", help="leave the server's description as it is")
    what.add_argument("-f", dest="file", type=Path, metavar="FILE", help="file with the description, a JSON object")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    names = environment.names()
    if not names:
        raise UsageError(
            f"No repository is configured in {environment.config_dir}", remedy="Create or import one first"
        )
    meta = None
    if options.file is not None:
        meta = editor.read_document(options.file)
    elif not options.keep:
        meta = editor.edit(server_meta(environment, names[0]), metainfo.check_meta)
        if meta is None:
            return 1
    listed = update_info(environment, names[0], meta)
    if options.json:
        output.print_json({"repositories": listed})
    else:
        print("Updating global JSON information... done")
    return 0
