# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish a tar file, a directory, a container image or a bucket in a transaction of its own.

Upstream's options for tar files, and more: --directory takes a directory, --image a container image, --s3 a bucket, and
--mirror makes the base directory equal to the source, where otherwise the source is merged into it.
"""

from __future__ import annotations

import argparse
import re

from ...changes.change_set import ChangeSet
from ...errors import UsageError
from ...operations.environment import Environment
from ...operations.publish import PublishOptions, ingest
from .. import output
from ..arguments import add_json, add_refused


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-t", "--tar_file", metavar="FILE", help="tar file; - reads standard input")
    source.add_argument("--directory", metavar="DIR", help="directory")
    source.add_argument(
        "--image",
        metavar="PATH",
        help="container image: OCI layout, tar file of one, or archive of docker save; - reads standard input",
    )
    source.add_argument(
        "--s3", metavar="FILE", help="S3 bucket, by a file of settings as s3.conf; its objects become files"
    )
    parser.add_argument("--s3-prefix", metavar="PREFIX", help="take what --s3 has below this; by default all")
    parser.add_argument("--image-reference", metavar="NAME", help="which image, where --image has several")
    parser.add_argument("-b", "--base_dir", metavar="PATH", help="where in the repository the content goes")
    parser.add_argument(
        "-d", "--delete", action="append", default=[], metavar="PATH", help="what to remove first; repeatable"
    )
    parser.add_argument(
        "-f", "--fast-delete", dest="delete", action="append", metavar="PATH", help="the same; it is always fast"
    )
    parser.add_argument("-c", "--catalog", action="store_true", help="make the base directory a nested catalog")
    parser.add_argument("-u", "--user", help="owner of the content")
    parser.add_argument("-g", "--group", help="group of the content; needs --user")
    parser.add_argument("-k", "--keep-ownership", action="store_true", help="keep the owners that the tar file names")
    for flag, reason in (
        ("--gc-db", "name the paths with --delete, or in publish --changes"),
        ("--tolerate-missing-hardlinks", "use --image, which finds what is in a lower layer, or repair the archive"),
    ):
        add_refused(parser, flag, reason)
    parser.add_argument("--mirror", action="store_true", help="remove from the base directory what the source has not")
    parser.add_argument("-a", dest="tag", metavar="TAG", help="name of the new revision")
    parser.add_argument("-m", dest="tag_description", default="", metavar="TEXT", help="description of the tag")
    parser.add_argument("-v", dest="verbose", action="store_true", help="print each path that changes")
    parser.add_argument("--dry-run", action="store_true", help="show what would change; needs no keys")
    add_json(parser)
    parser.add_argument("repository", nargs="?", metavar="FQRN", help="repository name")


def run(options: argparse.Namespace) -> int:
    environment = Environment.of_process()
    name = environment.resolve((options.repository or "").partition("/")[0] or None)
    if options.image_reference is not None and options.image is None:
        raise UsageError("--image-reference is for --image", remedy="Add --image, or leave it out")
    if options.s3_prefix is not None and options.s3 is None:
        raise UsageError("--s3-prefix is for --s3", remedy="Add --s3, or leave it out")
    changes = ChangeSet.of_ingest(
        source=options.directory or options.tar_file or options.image or options.s3,
        base_dir=_inside(options.base_dir, name) if options.base_dir is not None else None,
        delete=[_inside(path, name) for path in options.delete],
        mirror=options.mirror,
        nested_catalog=options.catalog,
        user=options.user,
        group=options.group,
        keep_ownership=options.keep_ownership,
        image=options.image is not None,
        image_reference=options.image_reference,
        s3_prefix=(options.s3_prefix or "") if options.s3 else None,
    )
    publish_options = PublishOptions(tag=options.tag, tag_description=options.tag_description)
    tell = output.print_path(name) if options.verbose and not options.json else None
    result = ingest(environment, name, changes, publish_options, dry_run=options.dry_run, tell=tell)
    output.print_publish(result, json=options.json)
    return 0


def _inside(path: str, name: str) -> str:
    """Return a path inside the repository.

    As in upstream since 2.13, it can be one of the mounted repository, and may have several slashes for one.
    """
    path = re.sub("//+", "/", path)
    mounted = f"/cvmfs/{name}"
    return path.removeprefix(mounted) or "/" if f"{path}/".startswith(f"{mounted}/") else path
