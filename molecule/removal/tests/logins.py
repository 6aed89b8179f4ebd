# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: (c) 2026, the cvmfs.publishing authors
"""Logs in by SSH with all kinds of certificates and tokens; writes into the file of its argument what came of each.

With the argument `later`, it uses the certificates that there are, when one account and one principal have gone.
"""

import io
import json
import os
import pathlib
import select
import subprocess
import sys
import tarfile

REPOSITORY = "molecule.example.org"
PLACE, ACCOUNTS = pathlib.Path("/root/ssh"), pathlib.Path("/var/lib/cvmfs-publishing")
HOST = ["-F", "none", "-p", "22622", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
HOST += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "127.0.0.1"]
# Who has which certificate, as options of ssh-keygen's
CERTIFICATES = {
    "all": ["-n", "everybody@example.org"],
    "atlas": ["-n", "atlas"],
    "nightly": ["-n", "cms,atlas:nightly"],
    "other": ["-n", "cms"],
    "comma": ["-n", "cvmfs-atlas,atlas-,nightly"],
    "nobody": [],
    "expired": ["-n", "atlas", "-V", "20200101:20200102"],
    "elsewhere": ["-n", "atlas", "-O", "source-address=192.0.2.1/32"],
    "forced": ["-n", "atlas", "-O", "force-command=id"],
    "stranger": ["-n", "atlas"],
    "pipelines": ["-n", "pipelines"],
}


def keygen(*arguments: str) -> None:
    subprocess.run(["ssh-keygen", "-q", *arguments], check=True)


def make_key(name: str) -> str:
    path = PLACE / name
    keygen("-t", "ed25519", "-N", "", "-f", str(path))
    return str(path)


def ssh(name: str, account: str, *command: str, stdin: bytes = b"") -> tuple[int, str]:
    """Log in with a key, and the certificate beside it if there is one; return exit code and all that was said."""
    line = ["ssh", "-i", str(PLACE / name), "-l", account, *HOST, *command]
    done = subprocess.run(line, check=False, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return done.returncode, done.stdout.decode(errors="replace")


def shell() -> tuple[int, str]:
    """Work in a shell, which needs a terminal, and publish."""
    command = [
        "ssh",
        "-tt",
        "-i",
        str(PLACE / "all"),
        "-l",
        "cvmfs-all",
        *HOST,
        f"cvmfs-release-manager shell {REPOSITORY}",
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin is not None
    assert process.stdout is not None
    said = b""
    for prompt, answer in ((b"# ", f"tty >/cvmfs/{REPOSITORY}/terminal; exit"), (b"shell? ", "publish")):
        start = len(said)
        while prompt not in said[start:]:
            ready = select.select([process.stdout], [], [], 60)[0]
            data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                process.kill()
                return process.wait(), said.decode(errors="replace")
            said += data
        process.stdin.write(f"{answer}\n".encode())
        process.stdin.flush()
    rest = process.communicate(timeout=120)[0]
    return process.returncode, (said + rest).decode(errors="replace")


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("README")
        entry.size = 6
        tar.addfile(entry, io.BytesIO(b"Atlas\n"))
    return buffer.getvalue()


def by_token(name: str, token: str, path: str = "sw/nightly/1.0") -> tuple[int, str]:
    """Publish as a pipeline does, with the token before the archive, and a tag of that name."""
    command = f"cvmfs-release-manager ingest --token -a {name}-token {REPOSITORY}/{path}"
    return ssh("pipelines", "cvmfs-pipelines", command, stdin=f"{token}\n".encode() + archive())


def make_keys() -> None:
    make_key("plain")
    authority, strange = str(PLACE / "ca"), make_key("strange-ca")
    for who, options in CERTIFICATES.items():
        keygen("-s", strange if who == "stranger" else authority, "-I", who, *options, f"{make_key(who)}.pub")
    directory = ACCOUNTS / "cvmfs-atlas/.ssh"  # what a site may have told sshd to heed, for everybody else
    directory.mkdir(mode=0o755)
    (directory / "authorized_keys").write_text((PLACE / "plain.pub").read_text())
    (directory / "rc").write_text(f"touch {ACCOUNTS}/cvmfs-atlas/rc-was-run\n")


STATUS = "cvmfs-release-manager status"
if sys.argv[2:] == ["later"]:
    found = {"gone": ssh("all", "cvmfs-all", STATUS), "principal": ssh("nightly", "cvmfs-atlas", STATUS)}
    found["pipelines' account"] = ssh("pipelines", "cvmfs-pipelines", STATUS)
    found["stays"] = ssh("atlas", "cvmfs-atlas", STATUS)
else:
    make_keys()
    data = archive()
    tokens = json.loads((PLACE / "tokens.json").read_text())
    nightly = f"cvmfs-release-manager ingest {REPOSITORY}/sw/nightly/1.0"
    found = {name: ssh(name, "cvmfs-atlas", STATUS) for name in (*CERTIFICATES, "plain")}
    found |= {f"{name} token": by_token(name, token) for name, token in tokens.items()}
    log = subprocess.run(["journalctl", "-t", "cvmfs-release-manager", "-o", "cat"], check=True, capture_output=True)
    found |= {
        "token for another path": by_token("elsewhere", tokens["good"], "sw/atlas/2.0"),
        "no token": by_token("no", ""),
        "token not asked for": ssh("pipelines", "cvmfs-pipelines", nightly, stdin=tokens["good"].encode()),
        "log": (0, log.stdout.decode()),
        "root": ssh("atlas", "root", "id"),
        "theirs": ssh("atlas", "cvmfs-atlas", f"cvmfs-release-manager ingest {REPOSITORY}/sw/atlas/1.0", stdin=data),
        "not theirs": ssh("atlas", "cvmfs-atlas", f"cvmfs-release-manager ingest {REPOSITORY}/sw/cms/1.0", stdin=data),
        "not the whole": ssh("atlas", "cvmfs-atlas", f"cvmfs-release-manager abort -f {REPOSITORY}"),
        "the whole": ssh("all", "cvmfs-all", f"cvmfs-release-manager server {REPOSITORY} tag -l -x"),
        "no command": ssh("atlas", "cvmfs-atlas"),
        "another command": ssh("atlas", "cvmfs-atlas", "id"),
        "another configuration": ssh("atlas", "cvmfs-atlas", "cvmfs-release-manager --config-dir /tmp status"),
        "a later one": ssh("atlas", "cvmfs-atlas", f"{STATUS} --config-dir /tmp"),
        "two commands": ssh("atlas", "cvmfs-atlas", f"{STATUS}; id"),
        "files": ssh("atlas", "cvmfs-atlas", "-s", "sftp"),
        "forwarding": ssh("atlas", "cvmfs-atlas", "-W", "127.0.0.1:22622"),
        "rc": [int((ACCOUNTS / "cvmfs-atlas/rc-was-run").exists()), ""],
        "shell": shell(),
    }
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
