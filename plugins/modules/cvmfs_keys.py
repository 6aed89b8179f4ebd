#!/usr/bin/python
# Copyright: (c) 2026, the cvmfs.publishing authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: cvmfs_keys
short_description: Generate and keep the keys of a CernVM-FS repository
version_added: 0.1.0
description:
  - Generates the master key, the repository key and the certificate of a repository, in a directory that is best on
    the controller.
  - Keys exist, and can be backed up, before the repository is created. The master key leaves this directory only for
    the minute in which a repository is created or its whitelist is signed.
  - An existing file is never overwritten.
  - Key files may be encrypted with C(ansible-vault). Look-ups with P(ansible.builtin.file#lookup) decrypt them.
author:
  - The cvmfs.publishing authors (@cvmfs)
requirements:
  - cryptography
extends_documentation_fragment:
  - cvmfs.publishing.attributes
  - cvmfs.publishing.attributes.action_group
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
options:
  repository:
    description:
      - The fully qualified name of the repository.
    type: str
    required: true
    aliases: [fqrn]
  directory:
    description:
      - Where the keys are kept. It is created if needed, readable by its owner only.
    type: path
    required: true
  certificate_days:
    description:
      - How long a new certificate is valid. Clients go by the whitelist and not by this date.
    type: int
    default: 3650
  replaces:
    description:
      - The SHA-1 fingerprint of the certificate that is to be replaced, as a whitelist prints it.
      - If it is that of the certificate in O(directory), a new repository key with a new certificate takes its place.
        The old files are kept with the fingerprint's first eight digits behind their names. The master key stays.
      - The playbook C(cvmfs.publishing.rotate_keys) does the rest.
    version_added: 0.2.0
    type: str
seealso:
  - module: cvmfs.publishing.cvmfs_repository
  - name: Signature details
    description: What the keys of a repository are for.
    link: https://cvmfs.readthedocs.io/en/stable/cpt-details.html
"""

EXAMPLES = r"""
- name: Have the keys of a repository
  cvmfs.publishing.cvmfs_keys:
    repository: software.example.org
    directory: "{{ inventory_dir }}/keys"
  delegate_to: localhost
"""

RETURN = r"""
paths:
  description: Where the keys are.
  returned: success
  type: dict
  contains:
    masterkey:
      description: The master key, which signs the whitelist. Back it up, and keep it off the release managers.
      type: str
    pub:
      description: The public half of the master key, which all clients need.
      type: str
    key:
      description: The repository key, which signs each revision.
      type: str
    crt:
      description: The certificate of the repository key.
      type: str
  sample:
    crt: /site/keys/software.example.org.crt
    key: /site/keys/software.example.org.key
    masterkey: /site/keys/software.example.org.masterkey
    pub: /site/keys/software.example.org.pub
fingerprint:
  description: The SHA-1 fingerprint of the certificate; in check mode, of the one that is to be replaced.
  returned: the certificate is there
  type: str
  sample: 32:D8:F4:16:8F:31:F7:92:12:8B:8F:D4:21:DF:DD:4C:FC:F1:0C:13
created:
  description: The files that were generated.
  returned: success
  type: list
  elements: str
  sample: [software.example.org.masterkey, software.example.org.pub]
masterkey_present:
  description: Whether the master key is here. It need not be, once the repository exists.
  returned: success
  type: bool
"""

import contextlib
import os

from ansible_collections.cvmfs.publishing.plugins.module_utils._errors import PublishingError, action
from ansible_collections.cvmfs.publishing.plugins.module_utils._keys import SUFFIXES, KeySet
from ansible_collections.cvmfs.publishing.plugins.module_utils._module import (
    PublishingModule,
    skip_if_check_mode,
    trigger_change,
)


class Keys(PublishingModule):
    argument_spec = dict(
        repository=dict(type="str", required=True, aliases=["fqrn"]),
        directory=dict(type="path", required=True),
        certificate_days=dict(type="int", default=3650),
        replaces=dict(type="str"),
    )

    def execute(self):
        self.fqrn = self.params["repository"]
        paths = {suffix: os.path.join(self.params["directory"], f"{self.fqrn}.{suffix}") for suffix in SUFFIXES}
        present = {suffix for suffix, path in paths.items() if os.path.exists(path)}
        missing = self._missing(present)
        self.result.update(
            paths=paths,
            created=[os.path.basename(paths[suffix]) for suffix in missing],
            masterkey_present="masterkey" in present or "masterkey" in missing,
        )
        self.before = {"files": sorted(os.path.basename(paths[suffix]) for suffix in present)}
        if missing:
            self._create(paths, missing)
        self.after = {"files": sorted(os.path.basename(paths[suffix]) for suffix in {*present, *missing})}
        if not missing:
            self._check(paths)
            self._replace_key(paths)
        if os.path.exists(paths["crt"]):
            self.result["fingerprint"] = self._fingerprint(paths)

    def _missing(self, present):
        """Return the files to generate, or refuse where a new one would not fit to what clients and whitelists know."""
        if not present:
            return list(SUFFIXES)
        if {"pub", "key", "crt"} <= present:
            return []
        if {"masterkey", "key", "crt"} <= present:
            return ["pub"]
        lost = ", ".join(f"{self.fqrn}.{suffix}" for suffix in SUFFIXES if suffix not in present)
        raise PublishingError(
            f"The keys of {self.fqrn} in {self.params['directory']} are incomplete: there is no {lost}",
            remedy="Restore them from the backup. If the repository does not exist yet, remove the others instead.",
        )

    @action("use the certificate in {0.params[directory]}")
    def _fingerprint(self, paths):
        return KeySet.read({"crt": paths["crt"]}).fingerprint()

    def _replace_key(self, paths):
        wanted = self.params["replaces"]
        if wanted is None or _normal(wanted) != _normal(self._fingerprint(paths)):
            return
        names = [os.path.basename(paths[suffix]) for suffix in ("key", "crt")]
        self.result["created"] = names
        self.after["files"] = sorted([*self.after["files"], *(f"{name}.{_normal(wanted)[:8]}" for name in names)])
        self._write_new_key(paths, _normal(wanted)[:8])

    @trigger_change
    @skip_if_check_mode
    @action("replace the repository key in {0.params[directory]}")
    def _write_new_key(self, paths, ending):
        keys = KeySet.generate(fqrn=self.fqrn, days=self.params["certificate_days"])
        new = {suffix: f"{paths[suffix]}.new" for suffix in ("key", "crt")}
        for suffix, path in new.items():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            with contextlib.suppress(FileExistsError):
                os.link(paths[suffix], f"{paths[suffix]}.{ending}")
        keys.write(new, tuple(new))
        for suffix, path in new.items():
            os.replace(path, paths[suffix])

    @action("use the keys in {0.params[directory]}")
    def _check(self, paths):
        KeySet.read(paths).check(fqrn=self.fqrn)

    @trigger_change
    @skip_if_check_mode
    @action("write keys into {0.params[directory]}")
    def _create(self, paths, missing):
        os.makedirs(self.params["directory"], mode=0o700, exist_ok=True)
        if missing == ["pub"]:
            KeySet.read(paths, without=("pub",)).write(paths, missing)
        else:
            KeySet.generate(fqrn=self.fqrn, days=self.params["certificate_days"]).write(paths, missing)


def _normal(fingerprint):
    return fingerprint.replace(":", "").lower()


def main():
    Keys.main()


if __name__ == "__main__":
    main()
