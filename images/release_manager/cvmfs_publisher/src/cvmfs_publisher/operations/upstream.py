# SPDX-License-Identifier: GPL-3.0-or-later
"""CernVM-FS's own ``cvmfs_server`` in a container.

It expects a machine that it has set up itself: spool directories, ``/etc/fstab``, mounts, and the checksum of the
reflog that it wrote last. All of it is made here out of the configuration and the bucket, as often as it is needed.

It knows of no other host that publishes, and its commit is not conditional. So whatever writes runs under the lease, as
the native publisher's does, and a publish is refused if the newest revision is not the one that it began with.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..content import ContentHash
from ..errors import ConfigurationError, ObjectNotFound, PublisherError, UsageError
from ..mount import system
from ..repository import Lease, ServerConfig
from ..repository.reflog import REFLOG_KEY
from ..storage import ObjectStore
from .environment import Environment
from .transaction import (
    Session,
    close_session,
    current_session,
    discard_session,
    exclusive,
    find_session,
    kept_alive,
    open_transaction,
)
from .union import make_mount_point, union_dir

PROGRAM = "/usr/bin/cvmfs_server"
FSTAB = Path("/etc/fstab")
UID_MAP = Path("/proc/self/uid_map")

_NATIVE = "/opt/cvmfs-publisher/bin/cvmfs_server"
_WHOLE_MACHINE = ["0", "0", "4294967295"]
_NOT_MOUNTED = {"help", "list", "version"}
_WRITING = {
    *("catalog-chown", "eliminate-bulk-hashes", "eliminate-hardlinks", "gc", "ingest", "migrate", "resign", "rollback"),
    "update-repoinfo",
}
_WRITING_OPTIONS = {"check": ("acit:s:r", {"-r"}), "tag": ("a:c:m:h:r:fblxi:", {"-a", "-r"})}
"""Of what writes on request only: all of its options, and those that ask for it."""
_REFUSED = {
    "mkfs": "It overwrites a repository that is there",
    "import": "The role cvmfs.publishing.release_manager has configured the repository",
    "rmfs": "There is nothing on this machine to remove",
}
_FSTAB = (
    "cvmfs2#{name} {spool}/rdonly fuse allow_other,fsname={name},config={conf}/client.conf:{spool}/client.local,"
    "cvmfs_suid,noauto 0 0 # added by CernVM-FS for {name}\n"
    "overlay_{name} {target} overlay upperdir={spool}/scratch/current,lowerdir={spool}/rdonly,"
    "workdir={spool}/ofs_workdir,noauto,nodev,ro 0 0 # added by CernVM-FS for {name}\n"
)

Run = Callable[[Sequence[str]], "subprocess.Popen[bytes]"]


def run(environment: Environment, arguments: Sequence[str], start: Run | None = None) -> int:
    """Run one of its subcommands with all that it needs, and return its exit code.

    :param arguments: its command line, without the program
    :param start: starts the program
    :raises PublisherError: when it must not run, or cannot
    """
    start = start or subprocess.Popen
    command = [PROGRAM, *arguments]
    subcommand = arguments[0] if arguments else "help"
    if subcommand in _REFUSED:
        raise UsageError(
            f"cvmfs_server {subcommand} of CernVM-FS is not for containers. {_REFUSED[subcommand]}",
            remedy=f"Use the native publisher's, which is in this image, too: {_NATIVE}",
        )
    if subcommand in _NOT_MOUNTED:
        return _wait(start(command))
    name, path = _target(environment, arguments)
    settings = environment.settings(name)
    if settings.get("CVMFS_SIGNING_SERVICE") and (subcommand in ("transaction", "publish") or _writes(arguments)):
        raise ConfigurationError(
            f"CernVM-FS's own tools sign with the key of {name}, and know nothing of a signing service",
            remedy="Remove CVMFS_SIGNING_SERVICE and provide the key, or use the native image",
        )
    if subcommand == "transaction":
        return _transaction(environment, settings, path, arguments, start)
    if subcommand in ("publish", "abort"):
        return _end(environment, settings, command, start)
    if _writes(arguments):
        return _alone(environment, settings, command, start)
    prepare(environment, settings)
    return _wait(start(command))


def prepare(environment: Environment, settings: ServerConfig) -> None:
    """Make this machine look as if its ``cvmfs_server`` had set it up, and mount the repository. May be repeated.

    :raises PublisherError: when that is impossible here
    """
    name, spool, target = settings.repository, environment.spool_dir(settings), union_dir(settings)
    if UID_MAP.read_text().split() != _WHOLE_MACHINE:
        raise PublisherError(
            f"{name} cannot be mounted: CernVM-FS's own tools keep what was removed in attributes that only root of "
            "the whole machine may set",
            remedy="Run this image by root's podman or docker, or use the native image, which works rootless",
        )
    try:
        _set_up(environment, name, spool, target)
    except OSError as error:
        raise PublisherError(
            f"{name} cannot be mounted: {error.filename or spool}: {error.strerror}",
            remedy="Start the container with a volume at /var/spool/cvmfs, and a file system that can be written to",
        ) from error
    if find_session(environment, settings) is None or not (spool / "in_transaction.lock").exists():
        _note_reflog(environment, settings, spool)
    make_mount_point(target)
    for place in (spool / "rdonly", target):
        if system.mounted_at(place) is None:
            _mount(name, place)


def _set_up(environment: Environment, name: str, spool: Path, target: Path) -> None:
    for directory in ("scratch/current", "scratch/wastebin", "rdonly", "tmp", "cache", "ofs_workdir"):
        (spool / directory).mkdir(parents=True, exist_ok=True)
    (spool / "client.local").touch()
    lines = FSTAB.read_text() if FSTAB.exists() else ""
    if f"# added by CernVM-FS for {name}\n" not in lines:
        conf = environment.repository_dir(name)
        FSTAB.resolve().write_text(lines + _FSTAB.format(name=name, spool=spool, conf=conf, target=target))


def _note_reflog(environment: Environment, settings: ServerConfig, spool: Path) -> None:
    """Note the checksum of the reflog as it is now: another release manager may have written it."""
    with environment.open(settings.repository, settings) as repository:
        algorithm = repository.manifest.root_hash.algorithm
        try:
            reflog = repository.store.get(REFLOG_KEY)
        except ObjectNotFound:
            return
    (spool / "reflog.chksum").write_text(ContentHash.of(reflog, algorithm).hex)


def _mount(name: str, place: Path) -> None:
    done = subprocess.run(["mount", place], capture_output=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
        raise PublisherError(
            f"{name} cannot be mounted at {place}: {lines[-1] if lines else f'exit code {done.returncode}'}",
            remedy="Start the container with --device /dev/fuse --cap-add SYS_ADMIN, and a volume at /var/spool/cvmfs",
        )


def _target(environment: Environment, arguments: Sequence[str]) -> tuple[str, str]:
    """Return the repository that a command line is about, and the path in it; they come last, if at all."""
    name, _, path = arguments[-1].partition("/") if len(arguments) > 1 else ("", "", "")
    known = environment.names()
    if name in known:
        return name, path
    if "." in name and not arguments[-1].startswith("-") and len(known) != 1:
        raise UsageError(f"{name} is not configured here", remedy=f"Choose one of {', '.join(known) or 'none'}")
    return environment.resolve(None), ""


def _writes(arguments: Sequence[str]) -> bool:
    if arguments[0] not in _WRITING_OPTIONS:
        return arguments[0] in _WRITING
    known, writing = _WRITING_OPTIONS[arguments[0]]
    try:
        options, _ = getopt.getopt(list(arguments[1:]), known)
    except getopt.GetoptError:  # which is theirs to refuse
        return False
    return any(option in writing for option, _ in options)


def _transaction(
    environment: Environment, settings: ServerConfig, path: str, arguments: Sequence[str], start: Run
) -> int:
    timeout = arguments[arguments.index("-t") + 1 :][:1] if "-t" in arguments else []
    if timeout and not timeout[0].isdecimal():
        raise UsageError(f"{timeout[0]!r} is no number of seconds", remedy="Say how long to wait: -t SECONDS")
    session = open_transaction(
        environment,
        settings.repository,
        path,
        retry_timeout=int(timeout[0]) if timeout else None,
        hooks=False,
        for_upstream=True,
    )
    try:
        prepare(environment, settings)
        code = _wait(start([PROGRAM, *arguments]))
    except BaseException as error:
        discard_session(environment, session, error)
        raise
    if code != 0:
        discard_session(environment, session)
    return code


def _end(environment: Environment, settings: ServerConfig, command: Sequence[str], start: Run) -> int:
    """Publish or abort, and give the lease back if that worked. ``--transaction ID`` refuses any other, as natively."""
    wanted = None
    if "--transaction" in command:
        at = list(command).index("--transaction")
        wanted, command = "".join(command[at + 1 : at + 2]), [*command[:at], *command[at + 2 :]]
    session = current_session(environment, settings, wanted)
    prepare(environment, settings)
    with contextlib.closing(environment.store(settings)) as store:
        if command[1] == "abort":
            code = _wait(start(command))
            if code == 0:
                discard_session(environment, session)
            return code
        lease = Lease.resume(store, session.repository, session.token)
        code = _under(lease, command, start, lambda: _require_newest(environment, settings, session))
        if code == 0:
            for warning in close_session(environment, settings, session, lease):
                print(warning, file=sys.stderr)
    return code


def _alone(environment: Environment, settings: ServerConfig, command: Sequence[str], start: Run) -> int:
    """Run what needs no transaction of its user's."""
    store: ObjectStore
    with contextlib.closing(environment.store(settings)) as store, exclusive(environment, settings, store) as lease:
        return _under(lease, command, start, lambda: prepare(environment, settings))


def _under(lease: Lease, command: Sequence[str], start: Run, before: Callable[[], None]) -> int:
    """Run a command for as long as the lease is ours; it commits last, and does not if it is ended before."""
    lease.renew()
    before()
    with kept_alive(lease) as keeper:
        process = start(command)
        lost: list[BaseException] = []

        def end(error: BaseException) -> None:
            lost.append(error)
            _terminate(process)

        keeper.on_loss(end)
        code = _wait(process)
    if lost:
        raise lost[0]
    return code


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return a program's exit code, which is 128 and the signal's number if it was killed; end it if we are to end."""
    try:
        code = process.wait()
    except BaseException:
        _terminate(process)
        process.wait()
        raise
    return code if code >= 0 else 128 - code


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """End a script with the programs that it has started, which would go on without it."""
    children = _descendants(process.pid)
    process.terminate()
    for child in children:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(child, signal.SIGTERM)


def _descendants(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:  # it has ended
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _require_newest(environment: Environment, settings: ServerConfig, session: Session) -> None:
    with environment.open(session.repository, settings) as repository:
        newest = repository.manifest
    if newest.root_hash.hex != session.root_hash:
        raise PublisherError(
            f"{session.repository} has revision {newest.revision} by now, and the transaction began with "
            f"{session.revision}. CernVM-FS's own tools would take back what was published in between",
            remedy="Abort the transaction, and do its work again in a new one",
        )
