# SPDX-License-Identifier: GPL-3.0-or-later
"""Change what a repository says about itself, a JSON object, in an editor or from a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...operations.environment import Environment
from ...operations.update_repoinfo import repository_meta, update_repoinfo
from ...repository import metainfo
from .. import editor, output
from ..arguments import add_json, add_repository


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", dest="file", type=Path, metavar="FILE", help="file with the JSON object")
    add_json(parser)
    add_repository(parser)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve(options.repository)
    if options.file is not None:
        meta: bytes | None = editor.read_document(options.file)
    else:
        meta = editor.edit(repository_meta(environment, name), metainfo.check_meta)
    if meta is None:
        return 1
    manifest, warnings = update_repoinfo(environment, name, meta)
    output.warn(warnings)
    if options.json:
        output.print_json({"repository": name, "revision": manifest.revision, "meta_info": manifest.meta_info})
    else:
        print(f"{name} has a new description.")
    return 0
