#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_host_command
short_description: Install the command cvmfs-release-manager on a host
version_added: 0.2.0
description:
  - Installs C(cvmfs-release-manager), with which people edit repositories in place on a release manager's host, and
    with which timers run C(cvmfs_server).
  - It is one file, a Python archive, with the code of this collection that it needs. So it does what the modules do.
author:
  - The cvmfs.publishing authors (@cvmfs)
extends_documentation_fragment:
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
  - cvmfs.publishing.attributes.upstream_engine
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details:
      - Shows the digests of the file.
  upstream_engine:
    support: partial
    details:
      - What the command does needs the versions that M(cvmfs.publishing.cvmfs_transaction) and
        M(cvmfs.publishing.cvmfs_publish) need.
options:
  path:
    description:
      - The file.
    type: path
    default: /usr/local/bin/cvmfs-release-manager
  config_dir:
    description:
      - The directory for the repositories' configuration, as the role P(cvmfs.publishing.release_manager#role) has
        written it.
      - By default, it is that of the user who calls the command, as with the other modules.
    type: path
  state:
    description:
      - Whether the file is to be there.
    type: str
    choices: [present, absent]
    default: present
seealso:
  - module: cvmfs.publishing.cvmfs_transaction
"""

EXAMPLES = r"""
- name: Have the command
  cvmfs.publishing.cvmfs_host_command:
    config_dir: /etc/cvmfs-publishing
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
"""

import ast
import hashlib
import importlib.util
import io
import os
import stat
import sys
import tempfile
import zipfile

from ansible_collections.cvmfs.publishing.plugins.module_utils import _host_command
from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import action
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)

_MODE = 0o755
_PACKAGE = _host_command.__name__.rpartition(".")[0]
_MAIN = """from {module} import main

raise SystemExit(main(config_dir={config_dir!r}))
"""


def archive(config_dir):
    """Return the command as a file. It is the same for the same code, byte for byte."""
    files = {"__main__.py": _MAIN.format(module=_host_command.__name__, config_dir=config_dir)}
    parts = _PACKAGE.split(".")
    files.update({"/".join([*parts[: length + 1], "__init__.py"]): "" for length in range(len(parts))})
    files.update({name.replace(".", "/") + ".py": text for name, text in _sources(_host_command.__name__, {}).items()})
    content = io.BytesIO()
    content.write(f"#!{sys.executable}\n".encode())
    with zipfile.ZipFile(content, "a") as stream:
        for name, text in sorted(files.items()):
            stream.writestr(zipfile.ZipInfo(name), text)
    return content.getvalue()


def _sources(module, found):
    """Return the source of a module and of all that it imports of the collection, by name."""
    if module not in found:
        found[module] = importlib.util.find_spec(module).loader.get_source(module)
        for node in ast.walk(ast.parse(found[module])):
            if isinstance(node, ast.ImportFrom) and node.module == _PACKAGE:
                for alias in node.names:
                    _sources(f"{_PACKAGE}.{alias.name}", found)
            elif isinstance(node, ast.ImportFrom) and node.module.startswith(f"{_PACKAGE}."):
                _sources(node.module, found)
    return found


class HostCommand(PublishingModule):
    argument_spec = dict(
        path=dict(type="path", default="/usr/local/bin/cvmfs-release-manager"),
        config_dir=dict(type="path"),
        state=dict(type="str", choices=["present", "absent"], default="present"),
    )

    def execute(self):
        self.path = self.result["path"] = self.params["path"]
        current, mode = self._current()
        wanted = archive(self.params["config_dir"]) if self.params["state"] == "present" else None
        self.before, self.after = _describe(current), _describe(wanted)
        if wanted is None and current is not None:
            self._remove()
        elif wanted != current or (wanted is not None and mode != _MODE):
            self._write(wanted)

    @action("read {0.path}")
    def _current(self):
        try:
            with open(self.path, "rb") as stream:
                return stream.read(), stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        except FileNotFoundError:
            return None, None

    @trigger_change
    @skip_if_check_mode
    @action("write {0.path}")
    def _write(self, content):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.module.tmpdir, delete=False) as stream:
            stream.write(content)
        self.module.atomic_move(stream.name, self.path)
        os.chmod(self.path, _MODE)

    @trigger_change
    @skip_if_check_mode
    @action("remove {0.path}")
    def _remove(self):
        os.unlink(self.path)


def _describe(content):
    return {"sha256": hashlib.sha256(content).hexdigest() if content is not None else None}


def main():
    HostCommand.main()


if __name__ == "__main__":
    main()
