# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""podman and docker behind one interface. Private to the collection.

Both engines are driven by their command line, as an argument vector. Where they agree, and they mostly do, the
argument vector is built once in :class:`Engine`; what differs is secrets. podman keeps them itself and takes them on
standard input. docker has secrets only in a swarm, so there they are files on a tmpfs that only their owner can read.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import typing as t

from ansible_collections.cvmfs.publishing.plugins.module_utils import _command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import CommandError, PublishingError, action

SPOOL_DIR = "/var/spool/cvmfs"
SECRETS_ROOT = "/etc/cvmfs"
INTERACTIVE_LABEL = "io.cvmfs.publishing.interactive"
OPTIONS_LABEL = "io.cvmfs.publishing.options"  # a digest of what a container that stays was made with
# What mounting a repository takes, and editing files of any owner in it. It ends at the container's user namespace.
_MOUNTING = [
    *("--label", f"{INTERACTIVE_LABEL}=true"),
    *("--device", "/dev/fuse", "--security-opt", "apparmor=unconfined"),
    *("--cap-add", "SYS_ADMIN", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"),
    *("--cap-add", "FSETID", "--cap-add", "SETFCAP"),
]
_SECRET_MODE = 0o400
_STOP_SECONDS = 20  # a release manager uses them to release the leases it holds
_MEMORY = ("tmpfs", "ramfs")  # the file systems that are gone after a reboot
_MAX_REPOSITORY = 35  # characters of a repository's name in that of a secret, for which podman 4 allows 64


@dataclasses.dataclass(frozen=True)
class Mount:
    """A host path that the container sees, read-only unless it is to write there."""

    source: str
    target: str
    is_writable: bool = False

    @property
    def arguments(self):
        """The engine's option for it. ``-v`` cannot express a colon and ``--mount`` cannot express a comma."""
        if ":" not in self.source and ":" not in self.target:
            return ["-v", f"{self.source}:{self.target}:{'rw' if self.is_writable else 'ro'}"]
        if "," in self.source or "," in self.target:
            raise PublishingError(
                f"No container engine can mount {self.source}, which has both a colon and a comma in its name",
                remedy="Rename it, or give a directory above it as the source.",
            )
        read_only = "" if self.is_writable else ",readonly"
        return ["--mount", f"type=bind,source={self.source},target={self.target}{read_only}"]


@dataclasses.dataclass(frozen=True)
class Container:
    """What a release manager's container is made of.

    `secrets` maps a file below /etc/cvmfs to the name of the engine's secret. `image` must be on the host already:
    pulling and building are visible steps of the role, not a surprise in the middle of a publish. `is_interactive` is
    for containers that mount their repository to be edited in place. `command` is what one that is started does, not
    what the image says; if it `is_kept`, the engine starts it again whenever it ends.
    """

    name: str
    image: str
    network: t.Optional[str] = None
    memory: t.Optional[str] = None
    cpus: t.Optional[str] = None
    pids_limit: t.Optional[int] = None
    log_driver: t.Optional[str] = None
    log_options: dict = dataclasses.field(default_factory=dict)
    environment: dict = dataclasses.field(default_factory=dict)
    mounts: tuple = ()
    secrets: dict = dataclasses.field(default_factory=dict)
    labels: dict = dataclasses.field(default_factory=dict)
    is_interactive: bool = False
    command: tuple = ()
    is_kept: bool = False
    tmpfs: tuple = ("/tmp",)  # noqa: S108 (in the container, whose root file system is read-only)

    def with_mounts(self, mounts):
        """Return the same container with further mounts."""
        return dataclasses.replace(self, mounts=tuple(dict.fromkeys((*self.mounts, *mounts))))


@dataclasses.dataclass(frozen=True)
class Difference:
    """One thing in which a container is not as it should be. The list of them is both `changed` and the diff."""

    name: str
    current: t.Any
    desired: t.Any


class Engine(abc.ABC):
    """A container engine on this host, of the calling user or, for root, of `user`.

    `run` and `attach` are those of :mod:`_command`, or a test's stand-ins. `uid` is the user whose containers they are.
    """

    name: str

    def __init__(self, run=None, attach=None, user=None):
        options = {"user": user} if user is not None else {}
        self._run_command = functools.partial(run or _command.run, **options)
        self._attach_command = functools.partial(attach or _command.attach, **options)
        self.uid = os.geteuid() if user is None else _command.user_id(user)

    # Containers

    @action("run {command[0]} in a container of image {container.image}")
    def run(self, *, container: Container, command, stdin=None, stderr_path=None, environment=None):
        """Run `command` in a container that is gone afterwards.

        Return :class:`_command.Completed`, whatever its exit code.
        """
        options = [*_exec_options(stdin, environment), *self._arguments(container)]
        argv = [self.name, "run", "--rm", *options, container.image, *command]
        return self._run_command(argv, stdin=stdin, stderr_path=stderr_path)

    @action("run {command[0]} in a container of image {container.image}")
    def run_attached(self, *, container: Container, command):
        """Run `command` in a container that is gone afterwards, on this process's own streams; return its exit code."""
        options = [*_attach_options(terminal=False), *self._arguments(container)]
        return self._attach_command([self.name, "run", "--rm", *options, container.image, *command])

    @action("start container {container.name}")
    def start(self, *, container: Container):
        """Start a container that stays, and make sure that it does."""
        try:
            options = ["--name", container.name, "--label", f"{OPTIONS_LABEL}={self._digest(container)}"]
            options += self._options(container)
            self._engine("run", "-d", *options, container.image, *container.command)
        except CommandError:
            self._remove_unstarted(container.name)
            raise
        state = self.inspect(name=container.name)
        if state is None or not state["State"]["Running"]:
            logs = self._run_command([self.name, "logs", "--tail", "20", container.name], stdin=None, stderr_path=None)
            self.remove(name=container.name)
            raise PublishingError(f"It ended at once, saying: {(logs.stdout + logs.stderr).strip() or 'nothing'}")

    def _remove_unstarted(self, name):
        """Remove the container that an engine leaves where it could not start it; one that runs is another task's."""
        state = self.inspect(name=name)
        if state is not None and state["State"]["Status"] in ("created", "initialized"):
            self.remove(name=name)

    def exec(self, *, name, command, stdin=None, stderr_path=None, environment=None):
        """Run `command` in the running container `name`; return :class:`_command.Completed`, whatever its exit code."""
        argv = [self.name, "exec", *_exec_options(stdin, environment), name, *command]
        return self._run_command(argv, stdin=stdin, stderr_path=stderr_path)

    def exec_attached(self, *, name, command, directory=None, environment=None):
        """Run `command` in the running container `name`, on this process's own streams; return its exit code.

        If these are a terminal, it has one, too.
        """
        is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        options = [*_attach_options(terminal=is_terminal), *_exec_options(None, environment)]
        if directory is not None:
            options += ["-w", directory]
        return self._attach_command([self.name, "exec", *options, name, *command])

    @action("start container {name} again")
    def restart(self, *, name):
        """Start the container `name`, which has ended, with the scratch volume that it had."""
        self._engine("start", name)

    @action("stop container {name}")
    def stop(self, *, name):
        """Stop a container, which stays with its scratch volume."""
        self._stop(name)

    @abc.abstractmethod
    def places(self):
        """Return the directories of this host in which the engine has containers, images and secrets."""

    def inspect(self, *, name):
        """Return the engine's description of container `name`, or None if there is none."""
        return self._inspect("container", name)

    def image_id(self, *, image):
        """Return the ID of an image that is on this host, or None."""
        description = self._inspect("image", image)
        return description["Id"].partition(":")[2] or description["Id"] if description else None

    def compare(self, *, container: Container):
        """Return the list of :class:`Difference` between a container and the one of that name that there is."""
        current = self.inspect(name=container.name)
        if current is None:
            return [Difference("container", None, container.name)]
        host = current["HostConfig"]
        facts = [
            ("running", current["State"]["Running"], True),
            ("image", current["Image"].rpartition(":")[2], self.image_id(image=container.image)),
            ("mounts", _binds(current, self._secret_targets(container)), _wanted_binds(container)),
            ("secrets", self._current_secrets(current, container), sorted(container.secrets.values())),
        ]
        if container.network is not None:
            facts.append(("network", host["NetworkMode"], container.network))
        if container.memory is not None:
            facts.append(("memory", host["Memory"], parse_size(container.memory)))
        if container.cpus is not None:
            facts.append(("cpus", host["NanoCpus"], round(float(container.cpus) * 1e9)))
        if container.pids_limit is not None:
            facts.append(("pids_limit", host["PidsLimit"], container.pids_limit))
        if container.log_driver is not None:
            facts.append(("log_driver", host["LogConfig"]["Type"], container.log_driver))
        labels = current["Config"].get("Labels") or {}
        facts.append(("interactive", INTERACTIVE_LABEL in labels, container.is_interactive))
        environment = dict(line.split("=", 1) for line in current["Config"].get("Env") or [])
        for name, value in sorted(container.environment.items()):
            facts.append((f"environment {name}", environment.get(name), value))
        for label, value in sorted(container.labels.items()):
            facts.append((f"label {label}", labels.get(label), value))
        found = [Difference(name, now, wanted) for name, now, wanted in facts if now != wanted]
        # What is not wanted any more, and what engines do not tell
        options = Difference("options", labels.get(OPTIONS_LABEL), self._digest(container))
        return found or [options] * (options.current != options.desired)

    @action("remove container {name}")
    def remove(self, *, name):
        """Stop a container, remove it with its scratch volume, and return whether there was one."""
        if self.inspect(name=name) is None:
            return False
        self._stop(name)
        self._engine("rm", "-f", "-v", name)
        return True

    # Secrets

    @abc.abstractmethod
    def secrets(self):
        """Return the names of the secrets that there are."""

    @abc.abstractmethod
    def create_secret(self, *, name, value):
        """Create a secret."""

    @abc.abstractmethod
    def remove_secret(self, *, name):
        """Remove a secret. One that is gone already is fine."""

    @abc.abstractmethod
    def _secret_arguments(self, target, secret):
        """Return the options that show a secret at the path `target`."""

    @abc.abstractmethod
    def _current_secrets(self, current, container):
        """Return the sorted names of the secrets that an inspected container has."""

    def _secret_targets(self, _container):
        return set()

    # Details

    @property
    def _capabilities(self):
        """The right to read everybody's sources; it exists only where the container's root is the host's root."""
        return ["--cap-add", "DAC_READ_SEARCH"] if self.uid == 0 else []

    @property
    def _identity(self):
        """The options that decide who the container's processes are on the host."""
        return []

    def _options(self, container):
        """Return the options of a container that stays."""
        return [*(["--restart", "always"] if container.is_kept else []), *self._arguments(container)]

    def _digest(self, container):
        """Return a digest of all that such a container is made with but its image."""
        words = [*self._options(container), *container.command]
        return hashlib.sha256("\0".join(words).encode(errors="surrogateescape")).hexdigest()

    def _arguments(self, container):
        argv = ["--pull", "never", "--read-only", "--cap-drop", "ALL", *self._capabilities, *self._identity]
        # Sources are other people's files: they are read where they are and never relabelled for SELinux.
        argv += ["--security-opt", "no-new-privileges", "--security-opt", "label=disable"]
        if container.is_interactive:
            argv += _MOUNTING
        for path in container.tmpfs:
            argv += ["--tmpfs", path]
        argv += ["-v", SPOOL_DIR]
        if container.network is not None:
            argv += ["--network", container.network]
        argv += _limits(container)
        for name, value in sorted(container.environment.items()):
            argv += ["--env", f"{name}={value}"]
        for label, value in sorted(container.labels.items()):
            argv += ["--label", f"{label}={value}"]
        for mount in container.mounts:
            argv += mount.arguments
        for target, secret in sorted(container.secrets.items()):
            argv += self._secret_arguments(f"{SECRETS_ROOT}/{target}", secret)
        return argv

    def _stop(self, name):
        self._engine("stop", "-t", str(_STOP_SECONDS), name)

    def _engine(self, *arguments, stdin=None):
        return self._run_command([self.name, *arguments], stdin=stdin, stderr_path=None).check("")

    def _inspect(self, kind, name):
        completed = self._run_command([self.name, kind, "inspect", name], stdin=None, stderr_path=None)
        if completed.rc != 0:
            if "no such" in completed.stderr.lower() or "not known" in completed.stderr.lower():
                return None
            completed.check(f"{self.name} cannot describe {kind} {name}")
        found = json.loads(completed.stdout)
        return found[0] if found else None


class Podman(Engine):
    """podman, rootful and rootless."""

    name = "podman"

    @action("ask podman where its containers are")
    def places(self):
        return self._engine("info", "--format", "{{.Store.GraphRoot}}\n{{.Store.RunRoot}}").stdout.splitlines()

    @action("list podman's secrets")
    def secrets(self):
        return self._engine("secret", "ls", "--format", "{{.Name}}").stdout.split()

    @action("create podman secret {name}")
    def create_secret(self, *, name, value):
        self._engine("secret", "create", name, "-", stdin=value)

    @action("remove podman secret {name}")
    def remove_secret(self, *, name):
        try:
            self._engine("secret", "rm", name)
        except CommandError as error:
            if "no such secret" not in error.completed.stderr.lower():
                raise

    def _secret_arguments(self, target, secret):
        return ["--secret", f"{secret},type=mount,target={target},mode={_SECRET_MODE:04o}"]

    def _current_secrets(self, current, container):
        return sorted(secret["Name"] for secret in current["Config"].get("Secrets") or [])


class Docker(Engine):
    """docker: of root, of a user who may use root's daemon, and rootless. `directory` is where secrets live."""

    name = "docker"

    def __init__(self, run=None, directory=None, attach=None, user=None):
        super().__init__(run, attach, user)
        self._directory = directory or _docker_secrets_directory()

    @action("ask docker where its containers are")
    def places(self):
        return [*self._engine("info", "--format", "{{.DockerRootDir}}").stdout.splitlines(), self._directory]

    @action("list the secrets in {0._directory}")
    def secrets(self):
        try:
            with os.scandir(self._directory) as entries:
                return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
        except FileNotFoundError:
            return []

    @action("create secret {name} in {0._directory}")
    def create_secret(self, *, name, value):
        self._ensure_directory()
        # A name of its own each time: what somebody writes at the same time, or was interrupted in, is not in the way.
        partial = os.path.join(self._directory, f".{name}.{secrets.token_hex(6)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _SECRET_MODE)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(value.encode("utf-8"))
            path = os.path.join(self._directory, name)
            if os.path.isdir(path):
                os.rmdir(path)  # dockerd has made it where a container was told to mount what is not there
            os.rename(partial, path)
        except BaseException:
            self.remove_secret(name=os.path.basename(partial))
            raise

    def _ensure_directory(self):
        if file_system_type(self._directory) not in _MEMORY:
            raise PublishingError(
                f"{self._directory} is on a disk, where a secret would outlive its use",
                remedy="Mount a tmpfs there, or use podman, which keeps secrets itself.",
            )
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        # /dev/shm is everybody's, so another user may have been there first.
        status = os.lstat(self._directory)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PublishingError(
                "It is another user's, who could read what is put there",
                remedy="Have root remove it, and ask who made it.",
            )
        os.chmod(self._directory, 0o700)

    @action("remove secret {name} from {0._directory}")
    def remove_secret(self, *, name):
        # A directory is no secret, and the next one of that name takes its place.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(os.path.join(self._directory, name))

    @property
    def _identity(self):
        """Be on the host who calls: who can read the secrets and the sources without any capability.

        The root of a daemon that remaps users could read neither, and the root of a container without capabilities
        cannot read what only an ordinary user may. To a rootless daemon, that user is the container's root.
        """
        identity = ["--userns", "host"]
        if os.geteuid() != 0 and not self._is_rootless:
            identity += ["--user", f"{os.geteuid()}:{os.getegid()}"]
        return identity

    @functools.cached_property
    def _is_rootless(self):
        return "name=rootless" in json.loads(self._engine("info", "--format", "{{json .SecurityOptions}}").stdout)

    def _secret_arguments(self, target, secret):
        # They are gone after a reboot. With ``-v``, dockerd would make directories in their place.
        return ["--mount", f"type=bind,source={os.path.join(self._directory, secret)},target={target},readonly"]

    def _current_secrets(self, current, container):
        targets = self._secret_targets(container)
        return sorted(
            os.path.basename(mount["Source"]) for mount in current["Mounts"] if mount["Destination"] in targets
        )

    def _secret_targets(self, container):
        return {f"{SECRETS_ROOT}/{target}" for target in container.secrets}


def secret_name(fqrn, what, digits):
    """Return the engine's name of a repository's secret.

    `what` it is, such as ``key``, is one lower-case word, and `digits` are twelve hexadecimal ones that make it unique.
    """
    return f"cvmfs-{_short(fqrn)}-{what}-{digits}"


def is_secret_of(fqrn, name):
    """Whether a secret with that name is the repository's, and not that of one whose name begins in the same way.

    With a dot in front, it is what docker's engine was interrupted in writing.
    """
    whole = rf"cvmfs-{re.escape(_short(fqrn))}-[a-z0-9]+-[0-9a-f]{{12}}"
    return re.fullmatch(rf"{whole}|\.{whole}(\.[0-9a-f]{{12}})?", name) is not None


def _short(fqrn):
    if len(fqrn) <= _MAX_REPOSITORY:
        return fqrn
    digest = hashlib.sha256(fqrn.encode()).hexdigest()
    return f"{fqrn[: _MAX_REPOSITORY - 11]}-{digest[:10]}"


ENGINES = {"podman": Podman, "docker": Docker}


def engine(name, user=None) -> Engine:
    """Return the engine called `name`: of the calling user or, for root, of `user`. PublishingError."""
    if user is None or os.geteuid() == _command.user_id(user):
        return ENGINES[name]()
    if os.geteuid() != 0:
        raise PublishingError(
            f"The containers are those of {user}, and so only {user} and root can use them",
            remedy=f"Become root or {user}.",
        )
    return ENGINES[name](user=user)


def parse_size(text):
    """Return the bytes that a size such as ``1g`` or ``512m`` means to the engines."""
    factors = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in factors else (text, "b")
    try:
        return int(number) * factors[unit]
    except ValueError:
        raise PublishingError(
            f"{text} is not a size", remedy="Write a whole number and b, k, m or g, as in 1g."
        ) from None


def file_system_type(path, mounts="/proc/self/mounts"):
    """Return the type of the file system that `path` is on."""
    path = os.path.realpath(path)
    best, kind = "", ""
    with open(mounts, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            point, found = line.split(" ")[1:3]
            inside = path == point or path.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best):
                best, kind = point, found
    return kind


def _limits(container):
    limits = [
        ("--memory", container.memory),
        ("--cpus", container.cpus),
        ("--pids-limit", container.pids_limit),
        ("--log-driver", container.log_driver),
    ]
    argv = [word for option, value in limits if value is not None for word in (option, str(value))]
    for name, value in sorted(container.log_options.items()):
        argv += ["--log-opt", f"{name}={value}"]
    return argv


def _exec_options(stdin, environment):
    options = ["-i"] if stdin is not None else []
    for name, value in sorted((environment or {}).items()):
        options += ["-e", f"{name}={value}"]  # settings; a secret never comes this way
    return options


def _attach_options(*, terminal):
    return ["-i", "-t"] if terminal else ["-i"]


def _runtime_directory():
    return "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")


def _docker_secrets_directory():
    """Return where docker's secrets live.

    /run is no tmpfs everywhere, above all not in containers; /dev/shm is one wherever there is glibc.
    """
    usual = os.path.join(_runtime_directory(), "cvmfs-publishing", "secrets")
    if file_system_type(usual) in _MEMORY:
        return usual
    shared = f"/dev/shm/cvmfs-publishing-{os.geteuid()}"  # noqa: S108 (it is looked at before it is used)
    return shared if file_system_type(shared) in _MEMORY else usual


def _binds(current, without):
    binds = [(m["Source"], m["Destination"]) for m in current["Mounts"] if m["Type"] == "bind"]
    return sorted(f"{source}:{target}" for source, target in binds if target not in without)


def _wanted_binds(container):
    return sorted(f"{mount.source}:{mount.target}" for mount in container.mounts)
