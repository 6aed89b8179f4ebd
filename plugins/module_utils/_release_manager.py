# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A repository's release manager on this host: its configuration and its container. Private to the collection.

The role ``release_manager`` leaves a directory for each repository, with ``server.conf``, ``client.conf`` and the
public key for the container, and ``release-manager.json`` for the modules. Everything else is in the bucket, the
engine's secrets, and the image.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pwd
import secrets
import shlex
import time
import typing

from ansible_collections.cvmfs.publishing.plugins.module_utils._cvmfs_server import CvmfsServer
from ansible_collections.cvmfs.publishing.plugins.module_utils._engine import (
    INTERACTIVE_LABEL,
    Container,
    Engine,
    Mount,
    engine,
    secret_name,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import (
    CommandError,
    PublishingError,
    action,
)
from ansible_collections.cvmfs.publishing.plugins.module_utils._lock import lock
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import Repository, timestamp
from ansible_collections.cvmfs.publishing.plugins.module_utils._sources import UNTOLD, identity, require_harmless
from ansible_collections.cvmfs.publishing.plugins.module_utils._upstream_server import UpstreamServer

CONFIGURATION_DIR = "/etc/cvmfs/repositories.d"
KEYS_DIR = "/etc/cvmfs/keys"
S3_DIR = "/etc/cvmfs/s3"
OTHER_S3_CONFIG = "s3/other.conf"  # below /etc/cvmfs
SOURCE_DIR = "/source"
DESTINATION_DIR = "/destination"
SIGNER_DIR = "/run/cvmfs-signer"  # server.conf says so, too
REPOSITORY_LABEL = "io.cvmfs.publishing.repository"
CONFIGURATION_LABEL = "io.cvmfs.publishing.configuration"

# What the modules that work on a release manager's host have in common. Documented in doc_fragments/release_manager.py.
ARGUMENT_SPEC = {
    "repository": {"type": "str", "required": True, "aliases": ["fqrn"]},
    "config_dir": {"type": "path"},
    "progress_path": {"type": "path"},
}

# What the modules that read a repository as everybody can have in common. Documented in doc_fragments/reader.py.
READER_ARGUMENT_SPEC = {
    "repository": {"type": "str", "aliases": ["fqrn"]},
    "url": {"type": "str"},
    "public_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
    "config_dir": {"type": "path"},
    "ca_path": {"type": "path"},
    "validate_certs": {"type": "bool", "default": True},
}


# What a role of an earlier version has not written.
_LATER_FACTS = ("cpus", "pids_limit", "log_driver", "log_options", "environment")
_POLL_SECONDS = 5
_ENGINE_FAILURES = 125  # exit codes from there on are the engine's own, or signals


class Occupied(PublishingError):
    """Somebody else has a transaction open in the container of this host."""


class NotConfigured(PublishingError):
    """The role has not run on this host for that repository."""


@dataclasses.dataclass(frozen=True)
class ReleaseManager:
    """The release manager of the repository `fqrn`. `config_dir` is the directory of the one repository.

    `masterkey_secret` is the engine's secret with the master key, where the site has decided to have it on this host.
    `signing_key_secret` is that with the repository key, where containers that publish do not have it, but ask a
    signing service.
    """

    fqrn: str
    config_dir: str
    stratum0_url: str
    engine: Engine
    template: Container
    shell_image: str = None
    ca_path: str = None
    masterkey_secret: str = None
    signing_key_secret: str = None
    progress_path: str = None
    upstream_version: str = None
    "Of CernVM-FS's own tools, if the image is of the upstream engine."
    permissions: dict = None
    "Who may publish where, of those who come by sudo; None where they may do all that sudo lets them."

    @classmethod
    def of_params(cls, params):
        """Return the release manager that a module's parameters name. PublishingError."""
        root = params["config_dir"] or default_config_dir()
        return cls.load(config_dir=root, fqrn=params["repository"], progress_path=params["progress_path"])

    @classmethod
    @action("use the release manager of {fqrn}")
    def load(cls, *, config_dir, fqrn, progress_path=None):
        """Read the configuration that the role has left. PublishingError."""
        # A path would lead to another configuration, which could say what it likes of permissions, image and secrets.
        if os.path.basename(fqrn) != fqrn or fqrn in ("", ".", ".."):
            raise PublishingError(
                f"{fqrn!r} is not the name of a repository",
                remedy="Give a fully qualified name, such as software.example.org.",
            )
        directory = os.path.join(config_dir, fqrn)
        path = os.path.join(directory, "release-manager.json")
        try:
            with open(path, encoding="utf-8") as stream:
                facts = json.load(stream)
            container = Container(
                name=facts["container_name"],
                image=facts["image"],
                network=facts["network"],
                memory=facts["memory"],
                **{name: facts[name] for name in _LATER_FACTS if facts.get(name) is not None},
                secrets=facts["secrets"],
                labels={**facts["labels"], REPOSITORY_LABEL: fqrn},
            )
            ca_file = facts.get("ca_file")
            return cls(
                fqrn,
                directory,
                facts["stratum0_url"],
                engine(facts["engine"], facts.get("user")),
                container,
                shell_image=facts.get("shell_image"),
                ca_path=os.path.join(directory, ca_file) if ca_file else None,
                masterkey_secret=facts.get("masterkey_secret"),
                signing_key_secret=facts.get("signing_key_secret"),
                progress_path=progress_path,
                upstream_version=facts.get("upstream_version"),
                permissions=facts.get("permissions"),
            )
        except FileNotFoundError:
            raise NotConfigured(
                f"{path} does not exist",
                remedy=f"Run role cvmfs.publishing.release_manager on this host, with {fqrn} in cvmfs_repositories.",
            ) from None
        except (KeyError, ValueError) as error:
            raise PublishingError(
                f"{path} is damaged: {error}", remedy="Run the role cvmfs.publishing.release_manager again."
            ) from None

    def container(self, sources=(), *, is_interactive=False):
        """Return the container that sees `sources`, paths on this host, below /source.

        With `is_interactive`, it can mount the repository, and has the software environment that people work in.
        """
        files = self._settings_files()
        if self.signing_key_secret is not None:
            files.append(Mount(self._socket_dir, SIGNER_DIR))
        # CernVM-FS's own tools do nothing without a mount.
        can_mount = is_interactive or self.upstream_version is not None
        container = dataclasses.replace(self._base(), is_interactive=can_mount)
        if is_interactive and self.shell_image:
            container = dataclasses.replace(container, image=self.shell_image)
        return container.with_mounts([*files, *(Mount(path, SOURCE_DIR + path) for path in sources)])

    def signer(self):
        """Return the container of the signing service, which alone has the repository key.

        It is another one when the configuration is. PublishingError if none is wanted.
        """
        if self.signing_key_secret is None:
            raise PublishingError(
                f"{self.fqrn} has no signing service on this host",
                remedy="Set signing_service in cvmfs_repositories, and run the role cvmfs.publishing.release_manager.",
            )
        files = [*self._base().mounts, *self._settings_files()]
        return dataclasses.replace(
            self.template.with_mounts([*files, Mount(self._socket_dir, SIGNER_DIR, True)]),
            name=self.signer_name,
            command=("cvmfs-signer", self.fqrn),
            is_kept=True,
            labels={**self.template.labels, CONFIGURATION_LABEL: self._digest(files)},
            secrets={**self.template.secrets, **self._key_secrets()},
        )

    @action("read the configuration of {0.fqrn}")
    def _digest(self, mounts):
        """Return a digest of files. Those that are replaced stay what they were to a container that runs."""
        digest = hashlib.sha256()
        for mount in mounts:
            with open(mount.source, "rb") as stream:
                digest.update(stream.read())
        return digest.hexdigest()

    @property
    def signer_name(self):
        """The name of the signing service's container; no repository's own begins like that."""
        return f"cvmfs_signer-{self.fqrn}"

    @property
    def _socket_dir(self):
        return os.path.join(self.config_dir, "signer")

    def _key_secrets(self):
        """Return the secrets that containers which ask a signing service lack."""
        return {f"keys/{self.fqrn}.key": self.signing_key_secret} if self.signing_key_secret is not None else {}

    def published(self):
        """Return the repository as everybody can read it, for one look.

        It remembers what it has read. PublishingError.
        """
        return Repository(self.stratum0_url, [self.public_key()], fqrn=self.fqrn, ca_path=self.ca_path)

    @action("read the public key of {0.fqrn}")
    def public_key(self):
        """Return the public half of the master key, as PEM. PublishingError."""
        with open(self._public_key_path, encoding="ascii") as stream:
            return stream.read()

    def settings(self):
        """Return what server.conf says, by key."""
        with open(os.path.join(self.config_dir, "server.conf"), encoding="utf-8") as stream:
            lines = [line.strip().partition("=") for line in stream if line.strip() and not line.startswith("#")]
        return {key: " ".join(shlex.split(value)) for key, _separator, value in lines}

    @property
    def _public_key_path(self):
        return os.path.join(self.config_dir, f"{self.fqrn}.pub")

    def _settings_files(self):
        names = ("server.conf", "client.conf")
        return [Mount(os.path.join(self.config_dir, name), f"{CONFIGURATION_DIR}/{self.fqrn}/{name}") for name in names]

    def _base(self):
        """Return the container with what is public and needed by every command."""
        files = [Mount(self._public_key_path, f"{KEYS_DIR}/{self.fqrn}.pub")]
        if self.ca_path is not None:
            files.append(Mount(self.ca_path, self._ca_target))
        return self.template.with_mounts(files)

    @property
    def _ca_target(self):
        """Where a container sees the storage's certificate authorities; server.conf says so, too."""
        return f"{S3_DIR}/{self.fqrn}.ca.pem"

    def server(self):
        """Return ``cvmfs_server`` in the container that is running."""

        def execute(command, **streams):
            return self.engine.exec(name=self.template.name, command=command, **streams)

        return self._server(execute)

    def server_once(self, *, sources=(), destinations=(), extra_secrets=None, without_configuration=False):
        """Return ``cvmfs_server`` in a container of its own for each call.

        It can write to `destinations`, paths on this host, below /destination. `extra_secrets` are shown to it besides
        the usual ones. `without_configuration` is for ``mkfs``, which writes its own, and signs with the key itself.
        """
        container = self.container(sources)
        if without_configuration:
            container = dataclasses.replace(self._base(), tmpfs=(*self.template.tmpfs, CONFIGURATION_DIR))
            extra_secrets = {**self._key_secrets(), **(extra_secrets or {})}
        container = container.with_mounts([Mount(path, DESTINATION_DIR + path, True) for path in destinations])
        container = dataclasses.replace(container, secrets={**container.secrets, **(extra_secrets or {})})

        def execute(command, *, environment=None, **streams):
            if without_configuration and self.ca_path is not None:
                environment = {**(environment or {}), "X509_CERT_BUNDLE": self._ca_target}
            return self.engine.run(container=container, command=command, environment=environment, **streams)

        return self._server(execute)

    def hash_suffix(self):
        """Return what follows the digest in the repository's printed hashes."""
        name = self.settings().get("CVMFS_HASH_ALGORITHM") or "sha1"
        return "" if name == "sha1" else f"-{name}"

    def whitelist_to_sign(self, current=b"", keep=(), rolls_over=False):
        """Return what the action plugin has to know to sign a whitelist; see `sign_whitelists` there."""
        return {
            "algorithm": self.hash_suffix(),
            "current": base64.b64encode(current).decode(),
            "keep": list(keep),
            "rolls_over": rolls_over,
        }

    @contextlib.contextmanager
    def other_bucket(self, s3_config, *, warn):
        """Show another bucket's ``s3.conf`` to containers for as long as it is needed. See `OTHER_S3_CONFIG`.

        Yields the secrets to add to a container's. What was done with it is done, and what failed is the error to
        report, so that it cannot be taken away again is only told to `warn`.
        """
        # A name of its own each time: two runs at once do not take each other's secret away.
        name = secret_name(self.fqrn, "s3other", secrets.token_hex(6))
        self.engine.create_secret(name=name, value=s3_config)
        try:
            yield {OTHER_S3_CONFIG: name}
        finally:
            try:
                self.engine.remove_secret(name=name)
            except PublishingError as error:
                warn(
                    f"{error} What gives access to another bucket of {self.fqrn} is still in that secret: "
                    "remove it by hand."
                )

    def signing_secrets(self):
        """Return the secrets with which a container can sign whitelists on this host. PublishingError."""
        if self.masterkey_secret is None:
            raise PublishingError(
                f"The master key of {self.fqrn} is not on this host, and nobody can sign the whitelist without it",
                remedy="Run the playbook cvmfs.publishing.resign where the key is: it hands the key out for a moment.",
            )
        return {f"keys/{self.fqrn}.masterkey": self.masterkey_secret}

    def lock(self):
        """Hold this host's lock for starting and removing the container. PublishingError after a minute.

        What a task has found out about the container holds for as long as it has the lock. It is not for publishing,
        which the open transaction protects.
        """
        purpose = f"start or remove container {self.template.name}"
        return lock(path=os.path.join(self.config_dir, "lock"), purpose=purpose)

    def begin(self, *, sources, is_interactive=False, path=""):
        """Open a transaction in a container that sees `sources`, and return its public description.

        With `is_interactive`, the repository is mounted in the container at /cvmfs, to be edited in place. With `path`,
        nothing but what is below it may be changed.

        Occupied if there is one already, which is left alone. PublishingError if one was interrupted here.
        """
        with self.lock():
            state = self.engine.inspect(name=self.template.name)
            self.refuse_strangers(self._transaction_in(state))
            self._refuse_interrupted(state)
            self.ensure_container(container=self.container(sources, is_interactive=is_interactive))
            try:
                if is_interactive:
                    self._require_same(sources)
                return self.server().transaction(interactive=is_interactive, path=path)
            except BaseException as error:
                if not self._is_somebody_elses(error):
                    self.remove_container()
                raise

    def _is_somebody_elses(self, error):
        """Whether the transaction that could not be opened is open.

        Tasks keep out of each other's way, but not people who use ``cvmfs_server`` by hand.
        """
        is_refused = isinstance(error, CommandError) and 0 < error.completed.rc < _ENGINE_FAILURES
        return is_refused and self.open_transaction() is not None

    def leave(self, *, transaction_id):
        """Remove the container, which ends that transaction if it is still open.

        Not if another is open there, or has been interrupted.
        """
        with self.lock():
            state = self.engine.inspect(name=self.template.name)
            current = self._transaction_in(state)
            if _was_interrupted(state):
                is_mine = self._has_lease(transaction_id)
            else:
                is_mine = current is None or current["id"] == transaction_id
            if is_mine:
                self.drop(current)

    def drop(self, current):
        """Remove the container with the transaction that is `current` in it, or None. Hold the lock."""
        # A container that is told to end aborts others by itself, but keeps what somebody may go on with.
        if current is not None and (current.get("mount_point") or self.upstream_version is not None):
            with contextlib.suppress(PublishingError):  # it goes with the container, and its lease ends by itself
                self.server().abort(transaction_id=current["id"], force=True)
        self.remove_container()

    def open_transaction(self):
        """Return the public description of the transaction that is open in the running container, or None.

        Hold the lock, or somebody may remove the container meanwhile, which is an error.
        """
        return self.look().transaction

    def look(self):
        """Return what there is of the container, as a :class:`Look`. As for `open_transaction`, hold the lock."""
        state = self.engine.inspect(name=self.template.name)
        return Look(self._transaction_in(state), state is not None, _was_interrupted(state))

    def _transaction_in(self, state):
        if state is None or not state["State"]["Running"]:
            return None
        found = [item for item in self.server().list() if item["repository"] == self.fqrn]
        return found[0].get("transaction") if found else None

    def resume(self):
        """Return the transaction that is open in the container, which is started again if it has ended; or None.

        After a power cut, the container's scratch volume has what was written in the transaction.
        """
        with self.lock():
            return self._resume(self.engine.inspect(name=self.template.name))

    def _resume(self, state):
        if state is None or state["State"]["Running"]:
            return self._transaction_in(state)
        self._restart(state)
        current = self.open_transaction()
        if current is None:
            self.remove_container()
        elif current["mount_point"]:
            self.server().mount()
        return current

    def abandon(self):
        """Drop the transaction that is open in the container, or was interrupted there, with all that was changed.

        The container is started again if it has ended: then it can give the lease back.
        """
        with self.lock():
            state = self.engine.inspect(name=self.template.name)
            current = None
            try:
                current = self._resume(state)
            except PublishingError:
                with contextlib.suppress(PublishingError):
                    current = self.open_transaction()
            self.drop(current)

    def _restart(self, state):
        """Start the container `state` again, with what it was shown before and nothing else."""
        self.engine.restart(name=self.template.name)
        if INTERACTIVE_LABEL in (state["Config"].get("Labels") or {}):
            shown = [mount["Destination"] for mount in state["Mounts"]]
            sources = [path[len(SOURCE_DIR) :] for path in shown if path.startswith(f"{SOURCE_DIR}/")]
            try:
                self._require_same(path for path in sources if UNTOLD not in path)
            except BaseException:
                self.engine.stop(name=self.template.name)
                raise

    def require_harmless(self, sources):
        """Raise PublishingError if people in a container could reach the engine, or its user's home, by `sources`."""
        require_harmless(sources, closed=[*self.engine.places(), pwd.getpwuid(self.engine.uid).pw_dir])

    def _require_same(self, sources):
        """Raise PublishingError if the container sees other files than those that are at `sources`, without any link.

        Whoever owns a source could put a link to something else there, after it was looked at and before it was shown.
        """
        for source in sources:
            seen = self.engine.exec(name=self.template.name, command=["stat", "-c", "%d:%i", SOURCE_DIR + source])
            if seen.check(f"Cannot see {source} in the container").stdout.strip() != identity(source):
                raise PublishingError(
                    f"The source {source} was replaced while the container started",
                    remedy="Leave it alone until the transaction is open.",
                )

    def is_busy(self):
        """Whether anybody has a transaction open, on this host or another. PublishingError."""
        with self.lock():
            current = self.open_transaction()
        return current is not None or self.published().lease() is not None

    def in_turn(self, begin, *, timeout):
        """Return what `begin` does, which opens a transaction, as soon as nobody else has one.

        `timeout` is in seconds, None for no wait, and 0 for ever. Occupied, PublishingError.
        """
        deadline = math.inf if timeout == 0 else time.monotonic() + (timeout or 0)
        while True:
            # Who waits has no container and no lock, to be in nobody's way.
            while time.monotonic() < deadline and self.is_busy():
                time.sleep(min(_POLL_SECONDS, max(0, deadline - time.monotonic())))
            try:
                return begin()
            except (Occupied, CommandError) as error:
                is_over = time.monotonic() >= deadline
                # Somebody may have been faster. Other reasons for which a command fails do not go away by waiting.
                if is_over or not (isinstance(error, Occupied) or self.is_busy()):
                    raise

    def refuse_strangers(self, current):
        """Raise Occupied if there is a `current` transaction: it is somebody else's to publish or to abort."""
        if current is not None:
            raise Occupied(
                f"Transaction {current['id']} is open on {self.fqrn}, in container {self.template.name}",
                remedy="It is not this task's. Let it end, or abort it with the playbook cvmfs.publishing.abort.",
            )

    def _refuse_interrupted(self, state):
        """Leave alone what a power cut has left of a transaction that was edited in place: it is somebody's work."""
        if _was_interrupted(state):
            raise PublishingError(
                f"The container of a transaction on {self.fqrn} has been interrupted",
                remedy=f"Go on with it: cvmfs-release-manager attach {self.fqrn}; or drop it: cvmfs-release-manager "
                f"abort {self.fqrn}",
            )

    def broken_lease(self, lease):
        """Return a warning that a lease is broken already."""
        return (
            f"The lease on {self.fqrn} is broken already. It can be published to from {timestamp(lease.free_from)} on: "
            "until then, storage may carry out what a garbage collection was deleting."
        )

    def left_lease(self, lease):
        """Return a warning that the transaction with that lease could not give it back."""
        return (
            f"Transaction {lease.transaction} has lost its container. Its lease on {self.fqrn} is in others' way for "
            "some minutes, unless you break it with the playbook cvmfs.publishing.abort."
        )

    def interrupted_work(self, *, but):
        """Return a warning if it has, and in another transaction than that with the ID `but` for all that is known.

        The lease says which one it was, for as long as there is one. Hold the lock. PublishingError.
        """
        if not self.look().was_interrupted or self._has_lease(but):
            return None
        return (
            f"A transaction on {self.fqrn} that was edited in place has been interrupted on this host. It may not be "
            f"{but}, and is left alone. Go on with it: cvmfs-release-manager attach {self.fqrn}; or drop it with the "
            "playbook cvmfs.publishing.abort."
        )

    def _has_lease(self, transaction_id):
        lease = self.published().lease()
        return lease is not None and lease.transaction == transaction_id

    def ensure_container(self, *, container):
        """Start the container, in place of one that is different.

        Return the differences there were. It must be idle.
        """
        differences = self.engine.compare(container=container)
        if differences:
            self.engine.remove(name=container.name)
            self.engine.start(container=container)
        return differences

    def has_container(self):
        """Whether there is a container, running or not."""
        return self.engine.inspect(name=self.template.name) is not None

    def unseen(self, sources):
        """Return those of `sources` that the container does not see."""
        mounts = self.engine.inspect(name=self.template.name)["Mounts"]
        seen = {mount["Destination"] for mount in mounts}
        return [path for path in sources if not any(_is_below(SOURCE_DIR + path, target) for target in seen)]

    def remove_container(self):
        """Remove the container, and return whether there was one."""
        return self.engine.remove(name=self.template.name)

    def _server(self, execute):
        options = {"execute": execute, "fqrn": self.fqrn, "progress_path": self.progress_path}
        if self.upstream_version is not None:
            return UpstreamServer(version=self.upstream_version, **options)
        return CvmfsServer(**options)


class Look(typing.NamedTuple):
    """What there is of a container at one moment.

    `transaction` is the public description of the one that is open in it, or None; `has_container` says whether there
    is a container, running or not; `was_interrupted` whether it has ended while the repository was edited in place.
    """

    transaction: dict
    has_container: bool
    was_interrupted: bool


def _was_interrupted(state):
    """Whether an inspected container has ended in which the repository was mounted to be edited in place."""
    if state is None or state["State"]["Running"]:
        return False
    return INTERACTIVE_LABEL in (state["Config"].get("Labels") or {})


def reader_options(params):
    """Return the arguments of :class:`Repository` that a reading module's parameters stand for. PublishingError."""
    url, public_keys = params["url"], params["public_keys"]
    tls = {name: params[name] for name in ("ca_path", "validate_certs")}
    if url is None:
        root = params["config_dir"] or default_config_dir()
        release_manager = ReleaseManager.load(config_dir=root, fqrn=params["repository"])
        url, public_keys = release_manager.stratum0_url, public_keys or [release_manager.public_key()]
        tls["ca_path"] = tls["ca_path"] or release_manager.ca_path
    return {"url": url, "public_keys": public_keys, "fqrn": params["repository"], **tls}


def default_config_dir():
    """Return where the role puts the configuration by default."""
    if os.geteuid() == 0:
        return "/etc/cvmfs-publishing"
    return os.path.expanduser("~/.config/cvmfs-publishing")


def _is_below(path, directory):
    return path == directory or path.startswith(directory + "/")


def source_path(path):
    """Return the absolute path of a source on this host. PublishingError if it is not there."""
    path = os.path.realpath(path)
    if not os.path.exists(path):
        raise PublishingError(
            f"The source {path} does not exist on this host", remedy="Give a directory or a tar file."
        )
    return path
