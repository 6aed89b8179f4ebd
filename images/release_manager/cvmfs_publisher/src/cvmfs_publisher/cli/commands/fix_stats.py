# SPDX-License-Identifier: GPL-3.0-or-later
"""Count anew what the catalogs have."""

from __future__ import annotations

import argparse

from ...operations.fix_stats import fix_stats
from ..rewriting import add_arguments as add_arguments
from ..rewriting import run_rewrite


def run(options: argparse.Namespace) -> int:
    return run_rewrite(options, fix_stats, "All catalogs of {name} will be written anew.")
