# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``cvmfs_server``, one method for each subcommand. Private to the collection.

The command line is the contract between the modules and the engine in the image, so nothing else here knows how an
image works.
"""

from __future__ import annotations

import json

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError, action

_PROGRESS_SECONDS = 2  # between two lines of progress, where somebody reads them


class CvmfsServer:
    """The command as it is in one place: `execute(command, stdin=, stderr_path=, environment=)` runs it there.

    `fqrn` is the repository that every subcommand is about. `progress_path` is a file on this host that the command's
    standard error is written to while it runs.
    """

    _program = "cvmfs_server"

    def __init__(self, *, execute, fqrn, progress_path=None):
        self._execute = execute
        self._fqrn = fqrn
        self._progress_path = progress_path

    @action("create the repository")
    def mkfs(
        self,
        *,
        stratum0_url,
        s3_config,
        keychain,
        owner=None,
        hash_algorithm=None,
        compression=None,
        auto_tag=True,
        auto_tag_timespan=None,
        garbage_collectable=False,
        volatile=False,
        whitelist,
    ):
        """Create the repository from existing keys and a signed `whitelist`; return the command's document."""
        argv = ["mkfs", "--json", "-w", stratum0_url, "-s", s3_config, "-k", keychain, "--whitelist", "-"]
        argv += _option("-o", owner) + _option("-a", hash_algorithm) + _option("-Z", compression)
        argv += _flag("-g", not auto_tag) + _option("-G", auto_tag_timespan)
        argv += _flag("-z", garbage_collectable) + _flag("-v", volatile)
        return self._json([*argv, self._fqrn], stdin=_text(whitelist))

    @action("describe the repository")
    def info(self):
        """Return revision, root hash, and how long the whitelist is valid."""
        return self._json(["info", "--json", self._fqrn])

    @action("list the repositories")
    def list(self):
        """Return the repositories that are configured where the command runs, with its open transactions.

        The storage is not asked: one that is down must not be in the way of aborting.
        """
        try:
            return self._json(["list", "--json", "--offline"])["repositories"]
        except CommandError as error:
            # After an upgrade, a transaction may still be open in a container of 0.1.0.
            if "unrecognized arguments: --offline" not in error.completed.stderr:
                raise
        return self._json(["list", "--json"])["repositories"]

    @action("open a transaction")
    def transaction(self, *, interactive=False, path=""):
        """Open a transaction and return its public description, whose ``id`` proves to later calls whose it is.

        With `interactive`, the repository is mounted where the command runs. With `path`, nothing but what is below it
        may be changed.
        """
        where = f"{self._fqrn}/{path}" if path else self._fqrn
        return self._json(["transaction", "--json", *_flag("--interactive", interactive), where])

    @action("keep everybody from publishing")
    def lasting_transaction(self):
        """Open a transaction that outlives the container, and in which nobody publishes; or return the one there is."""
        return self._json(["transaction", "--json", "--lasting", self._fqrn])

    @action("mount the repository again")
    def mount(self):
        """Mount the open interactive transaction in a container that was started again."""
        self._run(["mount", self._fqrn])

    @action("look at what was changed")
    def worktree_changes(self):
        """Return what the open interactive transaction has changed so far, as a dry run of publishing it."""
        return self._json(["diff", "--json", "--worktree", self._fqrn])

    @action("publish")
    def publish(self, *, changes, transaction_id=None, dry_run=False, tag=None, tag_description=None, checksum=False):
        """Publish the change set, or only say what would change; return the counts and paths."""
        argv = ["publish", "--json", "--changes", "-"]
        argv += _flag("--dry-run", dry_run) + _flag("--checksum", checksum) + _option("--transaction", transaction_id)
        argv += _option("-a", tag) + _option("-m", tag_description)
        return self._json([*argv, self._fqrn], stdin=json.dumps(changes))

    @action("abort the transaction")
    def abort(self, *, transaction_id=None, force=False):
        """Abort a transaction: the one with that ID, or with `force` whichever is open."""
        argv = ["abort", "--json", *_option("--transaction", transaction_id), *_flag("-f", force)]
        return self._json([*argv, self._fqrn])

    @action("ingest")
    def ingest(
        self, *, base_dir, tar_file=None, directory=None, delete=(), mirror=False, tag=None, tag_description=None
    ):
        """Publish a tar file or a directory in a transaction of its own."""
        argv = ["ingest", "--json", *_option("-t", tar_file), *_option("--directory", directory), "-b", base_dir]
        for path in delete:
            argv += ["-d", path]
        argv += _flag("--mirror", mirror) + _option("-a", tag) + _option("-m", tag_description)
        return self._json([*argv, self._fqrn])

    @action("list the tags")
    def tags(self):
        """Return all named snapshots, newest first."""
        return self._json(["tag", "--json", "-l", self._fqrn])["tags"]

    @action("create tag {name}")
    def add_tag(self, *, name, description=None, root_hash=None):
        """Name a revision: the newest, or the one with that root hash."""
        argv = ["tag", "--json", "-a", name, *_option("-m", description), *_option("-h", root_hash)]
        return self._json([*argv, self._fqrn])

    @action("remove tag {name}")
    def remove_tag(self, *, name):
        """Remove a named snapshot."""
        return self._json(["tag", "--json", "-f", "-r", name, self._fqrn])

    @action("put the new whitelist in place")
    def upload_whitelist(self, *, data, replaces=None, changes=()):
        """Put a whitelist in place that was signed where the master key is.

        `replaces` is the SHA-256 of the one that it was made from. Where that is not known, it lists the same
        certificates, but for the fingerprints `changes`.
        """
        argv = ["resign", "--json", "--signed", "-", *_option("--replaces", replaces)]
        for fingerprint in changes:
            argv += ["--changes", fingerprint]
        return self._json([*argv, self._fqrn], stdin=_text(data))

    @action("sign the current revision again")
    def resign_manifest(self, *, force=False):
        """Sign the manifest of the current revision with the host's repository key.

        With `force`, even if the whitelist does not list the certificate that has signed it.
        """
        return self._json(["resign", "--json", "-p", *_flag("-f", force), self._fqrn])

    @action("roll the repository back")
    def rollback(self, *, tag=None, undo=None):
        """Publish a tag's content, or that of the revision before the newest, whose number is `undo`, as a new one."""
        argv = [*_option("-t", tag), *_option("--undo", str(undo) if undo is not None else None)]
        return self._json(["rollback", "--json", "-f", *argv, self._fqrn])

    @action("collect the garbage")
    def gc(self, *, revisions=None, newer_than=None, orphans=False, orphans_before=None, dry_run=False):
        """Delete what no preserved revision needs, or only say how much that is; return the counts."""
        argv = ["gc", "--json", "-f", *_flag("-d", dry_run)]
        argv += _option("-r", str(revisions) if revisions is not None else None) + _option("-t", newer_than)
        argv += _flag("--orphans", orphans) + _option("--orphans-before", orphans_before)
        return self._json([*argv, self._fqrn])

    @action("remove the repository")
    def rmfs(self):
        """Delete everything that the repository has in its storage; return how many objects that were."""
        return self._json(["rmfs", "--json", "-f", "--delete-storage", self._fqrn])

    @action("check the repository")
    def check(self, *, integrity=False, tag=None):
        """Return the report of a check; problems are in it and are no error."""
        argv = ["check", "--json", *_flag("-i", integrity), *_option("-t", tag)]
        return self._json([*argv, self._fqrn], accept=(0, 1))

    @action("copy the repository")
    def copy(self, *, source=None, destination=None, overwrite=False, dry_run=False):
        """Copy the repository from or to another storage, in the form of CVMFS_UPSTREAM_STORAGE; return the counts."""
        argv = ["copy", "--json", *_option("--from", source), *_option("--to", destination)]
        return self._json([*argv, *_flag("--overwrite", overwrite), *_flag("--dry-run", dry_run), self._fqrn])

    def _run(self, arguments, *, stdin=None, accept=(0,)):
        completed = self._execute(
            [self._program, *arguments],
            stdin=stdin,
            stderr_path=self._progress_path,
            environment={"CVMFS_PROGRESS_INTERVAL": _PROGRESS_SECONDS} if self._progress_path else None,
        )
        if completed.rc not in accept or not completed.stdout.strip():
            raise CommandError(_reason(completed), completed)
        return completed

    def _json(self, arguments, **options):
        completed = self._run(arguments, **options)
        try:
            return json.loads(completed.stdout)
        except ValueError:
            raise PublishingError(
                f"cvmfs_server {arguments[0]} printed no JSON document but: {completed.stdout[:200]!r}",
                remedy="Is the image a release manager of this collection's version?",
            ) from None


def _reason(completed):
    """The command's own message, without its name in front of it."""
    complaint = completed.complaint
    for prefix in (f"cvmfs_server {completed.argv[-1]}: ", "cvmfs_server: "):
        complaint = complaint[len(prefix) :] if complaint.startswith(prefix) else complaint
    head, separator, tail = complaint.partition(": ")
    return tail if separator and head.startswith("cvmfs_server") else complaint


def _text(data):
    """Return bytes as the text that stands for them on standard input."""
    return data.decode("utf-8", "surrogateescape")


def _option(flag, value):
    return [flag, value] if value not in (None, "") else []


def _flag(flag, wanted):
    return [flag] if wanted else []
