# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``cvmfs-release-manager``, for people and timers on a release manager's host. Private to the collection.

The module ``cvmfs_host_command`` installs it, with all that it needs of the collection, as one file. It works as the
modules do, and respects their transactions as they do its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pwd
import shlex
import signal
import sys
import syslog

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError
from ansible_collections.cvmfs.publishing.plugins.module_utils._interactive import Workplace
from ansible_collections.cvmfs.publishing.plugins.module_utils._issuers import fetch_keys
from ansible_collections.cvmfs.publishing.plugins.module_utils._metrics import collect, of_release_manager
from ansible_collections.cvmfs.publishing.plugins.module_utils._oidc import person_of, read_token
from ansible_collections.cvmfs.publishing.plugins.module_utils._permissions import Person
from ansible_collections.cvmfs.publishing.plugins.module_utils._reader import timestamp
from ansible_collections.cvmfs.publishing.plugins.module_utils._release_manager import (
    ReleaseManager,
    default_config_dir,
    source_path,
)

PROGRAM = "cvmfs-release-manager"
_LINGERING = "/var/lib/systemd/linger"
_SUDO = "/usr/bin/sudo"


def main(argv=None, *, config_dir=None):
    """Be the command; return its exit code. `config_dir` is where the role has put the repositories' configuration."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    options = _parse(sys.argv[1:] if argv is None else argv)
    usual = config_dir or default_config_dir()
    try:
        if options.config_dir is not None:
            _refuse_other_configuration(usual)
        options.config_dir = options.config_dir or usual
        return options.do(options) or 0
    except PublishingError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 1


def _end(number, dummy_frame):
    """Being an exception, it gives everything the chance to clean up."""
    raise SystemExit(128 + number)


def _parse(argv):
    """Return what the arguments ask for. What follows ``--`` is a command for the container."""
    own, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Work on CernVM-FS repositories whose release managers are containers of this host.",
    )
    parser.add_argument("--config-dir", metavar="DIR", help="where the role release_manager has put its configuration")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    shell = _subcommand(subcommands, "shell", _shell, "open a transaction, and a shell with /cvmfs/FQRN writable")
    _add_target(shell)
    _add_sources(shell, "nothing")

    attach = _subcommand(subcommands, "attach", _attach, "go on with the shell of an open transaction")
    attach.add_argument("repository", metavar="FQRN")

    run = _subcommand(
        subcommands, "run", _run, "run a command in a transaction; publish if it succeeds, abort if it fails"
    )
    _add_target(run)
    _add_sources(run, "the current directory, in which the command runs")
    run.add_argument("-a", "--tag", help="name of the new revision")
    run.add_argument("-m", "--message", metavar="TEXT", help="description of the tag")
    run.usage = f"{PROGRAM} run [-h] [--source PATH]... [-a TAG] [-m TEXT] FQRN[/PATH] -- COMMAND..."

    ingest = _subcommand(
        subcommands, "ingest", _ingest, "publish a tar archive from standard input, without a shell in a container"
    )
    ingest.add_argument("target", metavar="FQRN/PATH", help="repository, and the directory that the archive goes to")
    ingest.add_argument(
        "--token",
        action="store_true",
        help="be who an OIDC ID token says; it is the first line of standard input, before the archive",
    )
    ingest.add_argument("--mirror", action="store_true", help="remove from the directory what the archive has not")
    ingest.add_argument("--dry-run", action="store_true", help="only show what would change")
    ingest.add_argument("-a", "--tag", help="name of the new revision")
    ingest.add_argument("-m", "--message", metavar="TEXT", help="description of the tag")

    status = _subcommand(subcommands, "status", _status, "show revisions and open transactions")
    status.add_argument("--json", action="store_true", help="print one JSON document")
    status.add_argument("repository", nargs="?", metavar="FQRN", help="by default, all of this host")

    metrics = _subcommand(subcommands, "metrics", _metrics, "show what Prometheus should know about repositories")
    metrics.add_argument("repository", nargs="?", metavar="FQRN", help="by default, all of this host")

    abort = _subcommand(subcommands, "abort", _abort, "drop the open transaction with all that was changed in it")
    abort.add_argument(
        "-f", "--force", action="store_true", help="do not ask; break the lease of another host's transaction, too"
    )
    abort.add_argument("repository", metavar="FQRN")

    server = _subcommand(subcommands, "server", _server, "run cvmfs_server SUBCOMMAND OPTIONS... FQRN in a container")
    server.add_argument("repository", metavar="FQRN")
    server.add_argument("arguments", nargs=argparse.REMAINDER, metavar="SUBCOMMAND [OPTIONS...]")

    signer = _subcommand(subcommands, "signer", _signer, "have the signing service of a repository running")
    signer.add_argument("repository", metavar="FQRN")

    _subcommand(subcommands, "oidc-keys", _oidc_keys, "fetch the keys of the issuers of OIDC tokens anew")

    _subcommand(subcommands, "login", _login, "do what is asked for by SSH; for ForceCommand in sshd's configuration")

    options = parser.parse_args(own)
    options.command = command
    if options.do is _run and not command:
        run.error("say what to run: a command after --")
    if options.do is _server and not options.arguments:
        server.error("say which subcommand of cvmfs_server")
    return options


def _subcommand(subcommands, name, do, text):
    parser = subcommands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(do=do)
    return parser


def _add_target(parser):
    parser.add_argument(
        "target", metavar="FQRN[/PATH]", help="repository; with a path, nothing but what is below it may be changed"
    )


def _add_sources(parser, default):
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="PATH",
        help=f"what to show of this host below /source, read-only; may be repeated (default: {default})",
    )


def _shell(options):
    fqrn, _slash, path = options.target.partition("/")
    release_manager = _load(options, fqrn)
    workplace = _workplace(release_manager)
    _need_terminal("Use run for scripts.")
    _warn_of_logout()
    workplace.open(path=path, sources=_sources(release_manager, options.source))
    workplace.shell()


def _attach(options):
    workplace = _workplace(_load(options, options.repository))
    _need_terminal("Without one, there are the playbooks publish and abort.")
    workplace.attach()
    workplace.shell()


def _run(options):
    fqrn, _slash, path = options.target.partition("/")
    release_manager = _load(options, fqrn)
    workplace = _workplace(release_manager)
    directory = None if options.source else os.getcwd()
    workplace.open(path=path, sources=_sources(release_manager, options.source or [directory]))
    return workplace.run(options.command, directory=directory, tag=options.tag, description=options.message)


def _sources(release_manager, paths):
    """Return the absolute paths of what people want to see in their container. PublishingError if they must not."""
    sources = [source_path(path) for path in paths]
    for source in sources:
        if source == "/":
            raise PublishingError(
                "No container may see the whole host, which / is",
                remedy="Change to another directory, or use --source with one.",
            )
    if sources and Person.of_process() is not None:
        release_manager.require_harmless(sources)
    return sources


def _ingest(options):
    """Publish what is only ever data: its sender never is in a container, and so not where the keys are."""
    fqrn, _slash, path = options.target.partition("/")
    release_manager = _load(options, fqrn, path=path)
    command = ["cvmfs_server", "ingest", "-t", "-", "-b", path or "/"]
    command += ["--mirror"] if options.mirror else []
    command += ["--dry-run"] if options.dry_run else []
    command += ["-a", options.tag] if options.tag else []
    command += ["-m", options.message] if options.message else []
    return release_manager.engine.run_attached(container=release_manager.container(), command=[*command, fqrn])


def _status(options):
    names = [options.repository] if options.repository else _configured(options.config_dir)
    found = [_describe(_load(options, name)) for name in names]
    if options.json:
        _say(json.dumps({"repositories": found}, indent=2, sort_keys=True))
    else:
        for facts in found:
            _say(_as_text(facts))
        if not found:
            _say(f"No repositories are configured in {options.config_dir}.")
    return 1 if any(facts["error"] for facts in found) else 0


def _metrics(options):
    names = [options.repository] if options.repository else _configured(options.config_dir)
    samples = collect([of_release_manager(_load(options, name)) for name in names])
    sys.stdout.write(samples.render())
    for problem in samples.problems:
        sys.stderr.write(f"{PROGRAM}: {problem}\n")
    return 1 if samples.problems else 0


def _describe(release_manager):
    """Return what is known about a repository. Storage that is down must not hide what is open here."""
    facts = dict.fromkeys(("revision", "published", "whitelist_expires", "whitelist_expired", "lease", "error"))
    with release_manager.lock():
        look = release_manager.look()
    facts["transaction"] = look.transaction
    facts["interrupted"] = look.transaction is None and look.has_container
    try:
        published = release_manager.published()
        manifest, lease = published.manifest(), published.lease()
        facts["revision"] = manifest.revision
        facts["published"] = timestamp(manifest.published)
        whitelist = published.whitelist()
        facts["whitelist_expires"] = whitelist.expires.isoformat()
        facts["whitelist_expired"] = whitelist.is_expired()
        if lease is not None:
            facts["lease"] = {
                "holder": lease.holder,
                "transaction": lease.transaction,
                "opened": timestamp(lease.acquired),
                "expires": timestamp(lease.expires),
                "lasting": lease.is_lasting,
            }
    except PublishingError as error:
        facts["error"] = str(error)
    return {"repository": release_manager.fqrn, **facts}


def _as_text(facts):
    name = facts["repository"]
    lines = [f"{name}: {facts['error']}"]
    if not facts["error"]:
        validity = "EXPIRED" if facts["whitelist_expired"] else "valid until"
        lines = [
            f"{name}: revision {facts['revision']} of {facts['published']}, whitelist {validity} "
            f"{facts['whitelist_expires']}"
        ]
    transaction, lease = facts["transaction"], facts["lease"]
    if transaction is not None:
        kind = f"go on with it: {PROGRAM} attach {name}" if transaction["mount_point"] else "a playbook's"
        lines.append(f"  transaction {transaction['id']} is open here since {transaction['opened']}; {kind}")
    elif lease is not None and lease["lasting"]:
        lines.append(f"  nobody can publish: {lease['holder']} has a lasting transaction open since {lease['opened']}")
    elif lease is not None:
        lines.append(
            f"  transaction {lease['transaction']} of {lease['holder']} is open elsewhere since {lease['opened']}; "
            f"its lease ends at {lease['expires']} unless it is renewed"
        )
    elif facts["interrupted"]:
        lines.append(f"  a transaction was interrupted here; go on with it: {PROGRAM} attach {name}")
    return "\n".join(lines)


def _abort(options):
    release_manager = _load(options, options.repository)
    fqrn = release_manager.fqrn
    if release_manager.has_container():
        question = f"All that was changed in the transaction on {fqrn} will be lost. Sure (yes, no)? "
        if not options.force and _ask(question) != "yes":
            return 1
        release_manager.abandon()
        _say(f"Aborted the transaction on {fqrn}.")
        return 0
    lease = release_manager.published().lease()
    if lease is None:
        _say(f"No transaction is open on {fqrn}.")
        return 0
    if not options.force and not lease.is_broken:
        raise PublishingError(
            f"Transaction {lease.transaction} on {fqrn} is open elsewhere: {lease.holder} holds the lease",
            remedy="Ask there first. Then, --force breaks the lease.",
        )
    report = release_manager.server_once().abort(force=True)
    _say(f"Broke the lease of {lease.holder} on {fqrn}.")
    for warning in report.get("warnings", ()):
        _say(f"{warning}.")
    return 0


def _server(options):
    release_manager = _load(options, options.repository)
    command = ["cvmfs_server", *options.arguments, *options.command, release_manager.fqrn]
    container = release_manager.container()
    if options.arguments[0] == "resign":
        container = dataclasses.replace(container, secrets={**container.secrets, **release_manager.signing_secrets()})
    return release_manager.engine.run_attached(container=container, command=command)


def _signer(options):
    release_manager = _load(options, options.repository)
    with release_manager.lock():
        release_manager.ensure_container(container=release_manager.signer())


def _oidc_keys(options):
    """Fetch keys. Whoever asks for it, they are those of issuers that the role trusts."""
    errors = fetch_keys(options.config_dir)
    for error in errors:
        sys.stderr.write(f"{PROGRAM}: {error} Until then, the keys that the host has stay.\n")
    return 1 if errors else 0


def _login(dummy_options):
    """Become what is asked for by SSH. sudo says then whose account it was, as permissions need."""
    if os.geteuid() == 0:
        raise PublishingError(
            "login is for sshd, which calls it for the accounts of teams", remedy="As root, call what you want itself."
        )
    arguments = _requested(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    program = os.path.abspath(sys.argv[0])
    os.execv(_SUDO, [_SUDO, "--non-interactive", "--", program, *arguments])  # noqa: S606 (no shell is the point)


def _requested(line):
    """Return the arguments for this command that a command line has, which no shell ever sees. PublishingError."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise PublishingError(f"What was asked for cannot be read: {error}", remedy="See to the quotes.") from None
    # Options before the subcommand are for the administrator: which configuration to believe.
    if words[:1] != [PROGRAM] or len(words) < 2 or not words[1][:1].isalpha() or words[1] == "login":
        raise PublishingError(
            f"This account is for {PROGRAM} and nothing else", remedy=f"Such as: ssh ACCOUNT@HOST {PROGRAM} status"
        )
    return words[1:]


def _workplace(release_manager):
    return Workplace(release_manager, say=_say, ask=_ask)


def _load(options, fqrn, path=None):
    """Return the release manager, whose containers are those of one user.

    Its permissions are kept: a shell is for those who may work in the whole repository, as it is where the keys are.
    """
    release_manager = ReleaseManager.load(config_dir=options.config_dir, fqrn=fqrn)
    person, permissions = _caller(options, release_manager), release_manager.permissions
    if person is not None and permissions is not None and options.do is not _status:
        if options.do is _ingest:
            person.require(permissions, fqrn, path)
            if person.token is not None:
                _log(person, f"publishes at {fqrn}/{path}")
        elif not person.may_everything(permissions):
            raise PublishingError(
                f"{person.account} may not do this with {fqrn}, whose permissions let some people work in parts of it",
                remedy=f"Publish with {PROGRAM} ingest {fqrn}/PATH <ARCHIVE.",
            )
    owner = os.stat(release_manager.config_dir).st_uid
    if os.geteuid() not in (0, owner):
        name = "root" if owner == 0 else pwd.getpwuid(owner).pw_name
        raise PublishingError(
            f"The release manager of {fqrn} is not yours", remedy=f"Become {name}, for example with sudo --user={name}."
        )
    return release_manager


def _caller(options, release_manager):
    """Return who has called this; None for who may do everything. A token counts more than what sudo says."""
    if options.do is not _ingest or not options.token:
        return Person.of_process()
    if release_manager.permissions is None:
        raise PublishingError(
            f"{release_manager.fqrn} has no permissions, so there is nothing that a token is good for",
            remedy="Say in permissions of the repository who may publish where.",
        )
    return person_of(read_token(0), config_dir=options.config_dir)


def _log(person, what):
    """Tell the system's log who has come by a token: sshd and sudo only know the account, which pipelines share."""
    syslog.openlog(PROGRAM, syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    syslog.syslog(syslog.LOG_NOTICE, f"{person.account} {what}, by the token {json.dumps(person.token)}")


def _refuse_other_configuration(usual):
    """Refuse another configuration, which would say what it likes, to who comes by sudo where there are permissions."""
    if Person.of_process() is None:
        return
    for name in _configured(usual):
        if ReleaseManager.load(config_dir=usual, fqrn=name).permissions is not None:
            raise PublishingError(
                "--config-dir is not for use by sudo, as a repository of this host has permissions",
                remedy=f"Leave it out: {PROGRAM} knows its configuration.",
            )


def _configured(config_dir):
    """Return the repositories that the role has configured."""
    found = os.listdir(config_dir) if os.path.isdir(config_dir) else []
    return sorted(name for name in found if os.path.exists(os.path.join(config_dir, name, "release-manager.json")))


def _need_terminal(remedy):
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PublishingError("This needs a terminal", remedy=remedy)


def _warn_of_logout():
    """systemd ends what an ordinary user has left, containers as well, unless the user may linger."""
    if os.geteuid() == 0 or not os.path.isdir("/run/systemd/system"):
        return
    name = pwd.getpwuid(os.geteuid()).pw_name
    if not os.path.exists(os.path.join(_LINGERING, name)):
        _say(f"Warning: the transaction will not outlive your login. As root, run: loginctl enable-linger {name}")


def _say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _ask(question):
    """Ask the person at the terminal; the answer is empty if there is none any more."""
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip()
