# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as a process of its own, which outlives the command that starts it and dies with its container."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING

from ..errors import MountError, PublisherError
from . import device
from .device import unmount
from .fuse import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .view import RevisionView

_PATIENCE = 10.0  # seconds that a server may take to end once it was unmounted


class _Terminated(BaseException):
    """The process was asked to end."""


def serve(view: RevisionView, mountpoint: Path, ready: Callable[[], None] = lambda: None) -> None:
    """Mount a view, and serve it until it is unmounted. SIGTERM ends it at once, whoever uses it.

    What cannot be read is told on standard error. To be called in the main thread.

    :param ready: called once the file system answers
    :raises MountError: when it cannot be mounted
    """
    server = Server(view, device.mount(view.name, mountpoint), _report)
    try:
        signal.signal(signal.SIGTERM, _terminate)
        server.handshake()
        ready()
        with contextlib.suppress(_Terminated):
            server.run()
    finally:
        server.close()
        # If it was not unmounted, it would be there as a mount that answers nothing
        with contextlib.suppress(MountError):
            unmount(mountpoint, lazy=True)


def start(open_view: Callable[[], AbstractContextManager[RevisionView]], mountpoint: Path, log_file: Path) -> int:
    """Serve a view in a process of its own, and return its id once the file system answers.

    To be called while this process has one thread.

    :param open_view: called in the new process
    :param log_file: gets its standard error, appended
    :raises PublisherError: what was raised there before the file system was mounted
    """
    try:
        log = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise MountError(f"Cannot write {log_file}: {error.strerror}", remedy="Make room there") from error
    receiving, sending = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _daemon(open_view, mountpoint, log, sending)
        os._exit(0)
    os.close(sending)
    os.close(log)
    os.waitpid(child, 0)
    with open(receiving, "rb") as stream:
        answer = stream.read()
    if not answer:
        raise MountError(f"The file system for {mountpoint} ended in the beginning", remedy=f"See {log_file}")
    told = json.loads(answer)
    if "pid" in told:
        return int(told["pid"])
    raise MountError(told["message"], remedy=told["remedy"] or f"See {log_file}")


@contextlib.contextmanager
def mounted(
    open_view: Callable[[], AbstractContextManager[RevisionView]], mountpoint: Path, log_file: Path
) -> Iterator[int]:
    """Have a view mounted for as long as the block takes; see `start`."""
    pid = start(open_view, mountpoint, log_file)
    try:
        yield pid
    finally:
        unmount(mountpoint, lazy=True)
        try:
            wait_for_end(pid)
        except MountError:
            # Still used: by a program, or by a mount namespace that was made meanwhile and has a copy of all mounts
            os.kill(pid, signal.SIGTERM)
            wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    """Wait until a server that was unmounted is gone.

    :raises MountError: when that takes too long
    """
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([process], [], [], _PATIENCE)[0]:
            raise MountError(f"Process {pid} still serves a file system that is in use", remedy="Close its files")
    finally:
        os.close(process)


def _daemon(
    open_view: Callable[[], AbstractContextManager[RevisionView]], mountpoint: Path, log: int, sending: int
) -> None:
    """Be the new process; never return."""
    told = False

    def tell(message: dict[str, object]) -> None:
        nonlocal told
        if not told:
            told = True
            with open(sending, "wb") as stream:
                stream.write(json.dumps(message).encode())

    try:
        _leave(log, sending)
        with open_view() as view:
            serve(view, mountpoint, lambda: tell({"pid": os.getpid()}))
            # Downloads that nobody waits for any more may take their time; nothing is to be tidied up after them
            os._exit(0)
    except PublisherError as error:
        _report(str(error))
        tell({"message": error.message, "remedy": error.remedy})
    except BaseException:
        traceback.print_exc()
    finally:
        # Not the way that the caller's process would end: it has its own business, which is not to be done twice
        sys.stderr.flush()
        os._exit(1)


def _leave(log: int, sending: int) -> None:
    """Have nothing in common any more with the process that this one comes from, but the pipe to tell it something."""
    gc.freeze()
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in (sending, nothing):
            # Not closed: objects that think it theirs would close what gets the number next
            with contextlib.suppress(OSError):
                os.dup2(nothing, descriptor, inheritable=False)
    sys.stdout = sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(*_: object) -> None:
    raise _Terminated


def _report(text: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), text, file=sys.stderr, flush=True)
