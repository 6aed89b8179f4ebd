# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CernVM-FS's own ``cvmfs_server``, in the image that has it. Private to the collection.

It opens transactions, publishes, edits tags and checks. It prints text for people, so what it did is found out by
looking: what rsync changed, and what the revision is afterwards. The image has the native publisher besides, which
takes the lease around all that, and does the rest: it says what is there, creates repositories and signs whitelists.
"""

from __future__ import annotations

import re
import time

from ansible_collections.cvmfs.publishing.plugins.module_utils._cvmfs_server import CvmfsServer
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError, action

_MOUNT_DIR = "/cvmfs"
_MOST_PATHS = 1000  # of each kind, in a report
# The version of CernVM-FS from which on a subcommand does what is needed here
_SINCE = {
    "transaction": "2.8.0",  # takes no for an answer by an exit code
    "publish": "2.8.0",
    "abort": "2.8.0",
    "ingest": "2.8.0",  # into the root directory, too
    "tag": "2.8.0",
    "check": "2.8.0",
    "diff": "2.8.1",  # of what is not published yet
}
# Its scripts hand a description to a shell, once unquoted. What a shell or an option parser could take for its own is
# refused.
_DESCRIPTION = re.compile(r"(?!-)[\w.,:;/@%+=-]+( (?!-)[\w.,:;/@%+=-]+)*", re.ASCII)
_ITEM = re.compile(r"(?:\*(?P<deleting>deleting)  |(?P<what>[<>ch.])(?P<kind>[fdLDS])(?P<facts>\S{9})) (?P<path>.*)")
_ESCAPED = re.compile(r"\\#([0-7]{3})")


class UpstreamServer(CvmfsServer):
    """`version` is that of CernVM-FS in the image."""

    _program = "/opt/cvmfs-publisher/bin/cvmfs_server"

    def __init__(self, *, version, **options):
        super().__init__(**options)
        self._version = version

    def list(self):
        """Return what the native publisher knows of, with the mounts that CernVM-FS's own tools always make."""
        found = super().list()
        for item in found:
            if item.get("transaction"):
                item["transaction"] = {**item["transaction"], "mount_point": f"{_MOUNT_DIR}/{item['repository']}"}
        return found

    @action("open a transaction")
    def transaction(self, *, interactive=False, path=""):
        """Open a transaction; the repository is always mounted where the command runs."""
        if path:
            raise PublishingError(
                f"CernVM-FS's own tools do not keep a transaction below /{path} without a gateway",
                remedy="Open it on the whole repository, or use the native engine's image.",
            )
        self._upstream("transaction")
        return {**self._open_here(), "mount_point": self._path("/") if interactive else None}

    @action("mount the repository again")
    def mount(self):
        self._mounted("true")

    @action("look at what was changed")
    def worktree_changes(self):
        """Return what was changed in the mounted repository and is not published yet."""
        report = self._worktree()
        return {**report.document(), "changed": report.changed}

    @action("publish")
    def publish(self, *, changes, transaction_id=None, dry_run=False, tag=None, tag_description=None, checksum=False):
        """Copy the change set into the mounted repository, and publish it; or only say what would change."""
        begin = time.monotonic()
        self._require_described(tag_description)
        if not dry_run:
            self._require_open(transaction_id)
        before = self.info()
        report = _Report()
        for change in changes["changes"]:
            if "delete" in change:
                self._delete(report, change["delete"], dry_run)
            else:
                self._bring_in(report, change, dry_run, checksum)
        after = before
        if not dry_run:
            if not report.changed:
                report = self._worktree()  # what people did in place
            if report.changed or tag:
                self._upstream("publish", *_option("-a", tag), *_option("-m", tag_description))
                after = self.info()
            else:
                self._upstream("abort", "-f")
        return {
            **report.document(),
            "changed": report.changed,
            "revision": after["revision"],
            "previous_revision": before["revision"],
            "root_hash": after["root_hash"],
            "tag": tag,
            "seconds": round(time.monotonic() - begin, 3),
        }

    @action("abort the transaction")
    def abort(self, *, transaction_id=None, force=False):
        """Abort the transaction of this place, if it is that one, or break the lease of another."""
        if self._open_here() is None:
            return super().abort(transaction_id=transaction_id, force=force)
        self._require_open(transaction_id)
        self._upstream("abort", "-f")
        return {"aborted": True}

    @action("ingest")
    def ingest(
        self, *, base_dir, tar_file=None, directory=None, delete=(), mirror=False, tag=None, tag_description=None
    ):
        """Publish a tar file in a transaction of its own."""
        if directory is not None or mirror or tag or tag_description:
            raise PublishingError(
                "CernVM-FS's own ingest takes a tar file, merges it and gives it no tag",
                remedy="Use the module cvmfs_publish, or the native engine's image.",
            )
        arguments = [*_option("-t", tar_file), "-b", base_dir]
        for path in delete:
            arguments += ["-d", path]
        self._upstream("ingest", *arguments)
        return {"changed": True, **self.info()}

    @action("create tag {name}")
    def add_tag(self, *, name, description=None, root_hash=None):
        self._require_described(description)
        self._upstream("tag", "-a", name, *_option("-m", description), *_option("-h", root_hash))
        return {"name": name}

    @action("remove tag {name}")
    def remove_tag(self, *, name):
        self._upstream("tag", "-f", "-r", name)
        return {"removed": [name]}

    @action("check the repository")
    def check(self, *, integrity=False, tag=None):
        """Return the problems that a check found, as it words them."""
        completed = self._run_upstream("check", *_option("-t", tag))
        problems = []
        if completed.rc != 0:
            problems = [line.strip() for line in completed.stderr.splitlines() if line.strip()] or [completed.complaint]
        warnings = []
        if integrity:
            warnings.append(
                "CernVM-FS's own check reads no objects of a bucket: only their presence was checked. "
                "The module cvmfs_verify reads all of them."
            )
        return {"problems": problems, "warnings": warnings}

    # Details

    def _upstream(self, subcommand, *arguments):
        completed = self._run_upstream(subcommand, *arguments)
        if completed.rc != 0:
            raise CommandError(_complaint(completed), completed)
        return completed

    def _run_upstream(self, subcommand, *arguments):
        needed = _SINCE[subcommand]
        if _numbers(self._version) < _numbers(needed):
            raise PublishingError(
                f"cvmfs_server {subcommand} needs CernVM-FS {needed}, and the image has {self._version}",
                remedy="Build images/release_manager/Containerfile.upstream with a newer CVMFS_VERSION.",
            )
        argv = ["cvmfs_server", subcommand, *arguments, self._fqrn]
        return self._execute(argv, stdin=None, stderr_path=self._progress_path, environment=None)

    def _mounted(self, *command, accept=(0,)):
        """Run a command where the repository is mounted."""
        argv = ["with-repository", self._fqrn, *command]
        completed = self._execute(argv, stdin=None, stderr_path=None, environment=None)
        if completed.rc not in accept:
            raise CommandError(_complaint(completed), completed)
        return completed.stdout

    def _open_here(self):
        return next((item.get("transaction") for item in self.list() if item["repository"] == self._fqrn), None)

    def _require_open(self, transaction_id):
        current = self._open_here()
        if current is None or transaction_id not in (None, current["id"]):
            found = f"transaction {current['id']} is" if current else "none is"
            raise PublishingError(
                f"Transaction {transaction_id} is not open on {self._fqrn}: {found}", remedy="Open a new one."
            )

    def _require_described(self, description):
        if description and not _DESCRIPTION.fullmatch(description):
            raise PublishingError(
                f"CernVM-FS's own tools would let a shell read the description {description!r}",
                remedy="Write words of letters, digits and . , : ; / @ % + = -, none of which begins with a hyphen.",
            )

    def _worktree(self):
        lines = self._upstream("diff", "--worktree").stdout.splitlines()
        added, removed = ({line[6:] for line in lines if line.startswith(kind)} for kind in ("[add] ", "[rem] "))
        report, root = _Report(), self._path("/")
        report.added = [path[len(root) :] for path in added - removed]
        report.modified = [path[len(root) :] for path in added & removed]
        report.removed = [path[len(root) :] for path in removed - added]
        return report

    def _path(self, path):
        """Return where a path of the repository is mounted. PublishingError if it is none."""
        names = [name for name in path.split("/") if name]
        if "." in names or ".." in names:
            raise PublishingError(
                f"{path} is no path of a repository", remedy="Name it from the root, without .. in it."
            )
        return "/".join([_MOUNT_DIR, self._fqrn, *names])

    def _delete(self, report, path, dry_run):
        target = self._path(path)
        if target == self._path("/"):
            raise PublishingError("The root of a repository cannot be deleted", remedy="Name what is in it.")
        found = self._mounted("find", target, "-print0", accept=(0, 1)).split("\0")[:-1]
        report.removed += [name[len(self._path("/")) :] for name in found]
        if found and not dry_run:
            self._mounted("rm", "-rf", "--", target)

    def _bring_in(self, report, change, dry_run, checksum):
        source, target = change["source"], self._path(change["base_dir"])
        if change.get("image") or "s3_prefix" in change:
            raise PublishingError(
                f"The upstream engine publishes directories, and {source} is a container image or a bucket's settings",
                remedy="Unpack or download it, or use the native engine's image, which reads both.",
            )
        kinds = self._mounted("find", source, "-maxdepth", "1", "-printf", "%y").strip()
        if kinds[:1] != "d":
            raise PublishingError(
                f"The upstream engine publishes directories, and {source} is none",
                remedy="Unpack it, or use the native engine's image, which reads archives.",
            )
        mirrors = change["mode"] == "mirror"
        if mirrors and len(kinds) == 1 and not change["allow_empty"]:
            raise PublishingError(
                f"{source} is empty", remedy="Give allow_empty: true if the directory is to be emptied."
            )
        options = ["--delete"] if mirrors else []
        options += ["--checksum"] if checksum else []
        options += ["--dry-run"] if dry_run else []
        # Marks of nested catalogs are the repository's own.
        options += ["--exclude=/.cvmfscatalog"] if change["nested_catalog"] else []
        listing = self._mounted(
            *("rsync", "--archive", "--hard-links", "--numeric-ids", "--mkpath", "--out-format=%i %n", *options),
            *("--", f"{source}/", f"{target}/"),
        )
        report.read(listing, target[len(self._path("/")) :])
        if change["nested_catalog"]:
            mark = f"{target}/.cvmfscatalog"
            if not self._mounted("find", mark, accept=(0, 1)):
                report.added.append(mark[len(self._path("/")) :])
                if not dry_run:
                    self._mounted("touch", mark)


class _Report:
    """Which paths a publish adds, changes and removes."""

    def __init__(self):
        self.added, self.modified, self.removed = [], [], []

    @property
    def changed(self):
        return bool(self.added or self.modified or self.removed)

    def read(self, listing, directory):
        """Read what rsync says that it did below a directory."""
        for line in listing.splitlines():
            item = _ITEM.fullmatch(line)
            if item is None:
                continue  # what rsync says besides
            name = _ESCAPED.sub(lambda digits: chr(int(digits[1], 8)), item["path"]).rstrip("/")
            path = f"{directory}/{name}" if name != "." else directory
            if item["deleting"]:
                self.removed.append(path)
            elif "+" in item["facts"]:
                self.added.append(path)
            else:
                self.modified.append(path)

    def document(self):
        """Return counts and the first paths, as the native engine does."""
        kinds = {"added": self.added, "modified": self.modified, "removed": self.removed}
        paths = {kind: sorted(path.lstrip("/") for path in paths)[:_MOST_PATHS] for kind, paths in kinds.items()}
        paths["truncated"] = any(len(paths) > _MOST_PATHS for paths in kinds.values())
        return {**{kind: len(paths) for kind, paths in kinds.items()}, "paths": paths}


def _complaint(completed):
    """What CernVM-FS says when it fails: on either stream, and not always in the last line."""
    lines = [line.strip() for line in f"{completed.stdout}\n{completed.stderr}".splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Executed Command", "/usr/bin/"))]
    return re.sub("^cvmfs_server: ", "", said[-1]) if said else completed.complaint


def _numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _option(flag, value):
    return [flag, value] if value not in (None, "") else []
