# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a transaction.

Where mounting is allowed, the repository can be edited in place at /cvmfs/FQRN until it is published. Elsewhere the
transaction is mountless, and says so: `publish --changes` and `ingest` bring the content.

Exit codes as upstream's: 17 a transaction is open here already, 16 somebody else has one open, 22 the whitelist has
expired or the template cannot be copied, 2 the path does not exist, 20 the path is not a directory.
"""

from __future__ import annotations

import argparse
import errno
import sys

from ...errors import (
    InTransaction,
    LeaseHeld,
    NotADirectory,
    PathNotFound,
    PublisherError,
    TemplateError,
    UsageError,
    WhitelistExpired,
)
from ...operations.environment import Environment
from ...operations.template import Template
from ...operations.transaction import open_lasting, open_transaction
from ...operations.union import is_mountless, why_impossible
from .. import output
from ..arguments import add_json, repository_and_path, whole_number

_EXIT_CODES: dict[type[PublisherError], int] = {
    InTransaction: errno.EEXIST,
    LeaseHeld: errno.EBUSY,
    WhitelistExpired: errno.EINVAL,
    PathNotFound: errno.ENOENT,
    NotADirectory: errno.ENOTDIR,
    TemplateError: errno.EINVAL,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t",
        "--retry-timeout",
        type=whole_number(0),
        metavar="SECONDS",
        help="wait that long for somebody else's transaction to end; 0 waits for ever",
    )
    parser.add_argument(
        "-T",
        "--template",
        metavar="FROM=TO",
        help="begin with a copy of the directory FROM at TO; content is not copied",
    )
    parser.add_argument("-U", "--template-from", metavar="FROM", help="with -V, instead of -T")
    parser.add_argument("-V", "--template-to", metavar="TO", help="with -U, instead of -T")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--interactive",
        action="store_true",
        default=None,
        help="mount the repository at /cvmfs/FQRN, to be edited in place; fails where that is not possible",
    )
    kind.add_argument(
        "--mountless",
        action="store_false",
        dest="interactive",
        help="mount nothing; publish --changes and ingest bring the content",
    )
    kind.add_argument(
        "--lasting",
        action="store_true",
        help="publish nothing in it: keep everybody from publishing, on all hosts, until it is aborted by abort -f; "
        "for a repository that was moved",
    )
    add_json(parser)
    parser.add_argument("repository", nargs="?", metavar="FQRN", help="repository name")


def _template(options: argparse.Namespace) -> Template | None:
    """Return the template that the options name.

    :raises UsageError: when they do not fit together
    """
    source, target = options.template_from, options.template_to
    if options.template is not None:
        if source is not None or target is not None:
            raise UsageError("-T excludes -U and -V", remedy="Use either")
        source, equals, target = options.template.partition("=")
        if not equals or "=" in target:
            raise UsageError(
                f"{options.template!r} is not of the form FROM=TO", remedy="With '=' in a name, use -U FROM -V TO"
            )
    if source is None and target is None:
        return None
    if not source or not target:
        raise UsageError("A template needs both directories", remedy="Name them: -U FROM -V TO, or -T FROM=TO")
    return Template.parse(source, target)


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name, path = repository_and_path(options.repository)
    template = _template(options)
    name = environment.resolve(name)
    if options.lasting and (path or template is not None):
        raise UsageError("A lasting transaction is on the whole repository, as it is", remedy="Leave path and -T out")
    settings = environment.settings(name)
    reason = why_impossible()
    is_interactive = not is_mountless(settings) and reason is None
    try:
        if options.lasting:
            session = open_lasting(environment, name, retry_timeout=options.retry_timeout)
        else:
            session = open_transaction(
                environment,
                name,
                path,
                retry_timeout=options.retry_timeout,
                template=template,
                interactive=is_interactive if options.interactive is None else options.interactive,
            )
    except tuple(_EXIT_CODES) as error:
        print(f"cvmfs_server transaction: {error}", file=sys.stderr)
        return _EXIT_CODES[type(error)]
    if options.interactive is None and not options.lasting and not is_mountless(settings) and reason is not None:
        print(f"This is a mountless transaction: {reason}.", file=sys.stderr)
    if options.json:
        output.print_json(session.public())
    else:
        copied = f" /{session.cloned} has {session.cloned_entries} copied entries." if session.cloned else ""
        where = f" It can be edited at {session.mount_point}." if session.mount_point else ""
        if options.lasting:
            where = f" Nobody can publish until it is aborted: cvmfs_server abort -f {name}."
        print(f"Opened transaction {session.id} on {session.repository}, revision {session.revision}.{copied}{where}")
    return 0
