# SPDX-License-Identifier: GPL-3.0-or-later
"""``cvmfs-signer``: signs the manifests of a repository for publishers that do not have its key."""

from __future__ import annotations

import signal
import sys

from ..errors import PublisherError, UsageError
from ..operations.environment import Environment
from ..operations.sign import serve
from .main import interrupt


def main() -> None:
    """Serve the repository that the one argument names, until SIGTERM or SIGINT."""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if len(sys.argv) != 2:
            raise UsageError("cvmfs-signer was given no repository", remedy="Name one: cvmfs-signer FQRN")
        serve(Environment.of_process(), sys.argv[1])
    except PublisherError as error:
        print(f"cvmfs-signer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(0)
