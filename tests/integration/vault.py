# SPDX-License-Identifier: GPL-3.0-or-later
"""What HashiCorp Vault's secrets engine "KV version 2" answers to those who read, on loopback.

Source: Vault's HTTP API documentation, "KV secrets engine - version 2" and "HTTP status codes".
"""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

_MOUNT = "/v1/secret/data/"


class Vault:
    """Its content, and who may read what."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        "Fields by path, below the mount point `secret`."
        self.tokens: dict[str, str] = {}
        "By token, what the paths begin with that it is good for."
        self.read: list[tuple[str, int]] = []
        "The paths that were asked for, and the answers."
        self.url = ""

    def answer(self, token: str | None, path: str) -> tuple[int, dict[str, Any]]:
        """Return status and document for a request."""
        if not path.startswith(_MOUNT):
            return 404, {"errors": [f"no handler for route {path!r}. route entry not found."]}
        name = path.removeprefix(_MOUNT)
        if token not in self.tokens or not name.startswith(self.tokens[token]):
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if name not in self.secrets:
            return 404, {"errors": []}
        metadata = {
            "created_time": "2026-01-01T00:00:00.000000000Z",
            "custom_metadata": None,
            "deletion_time": "",
            "destroyed": False,
            "version": 1,
        }
        document = {"data": self.secrets[name], "metadata": metadata}
        lease = {"lease_id": "", "renewable": False, "lease_duration": 0}
        others = {
            "request_id": "00000000-0000-0000-0000-000000000000",
            "wrap_info": None,
            "warnings": None,
            "auth": None,
        }
        return 200, {"data": document, **lease, **others}


@contextlib.contextmanager
def running_vault() -> Iterator[Vault]:
    """Serve one for as long as the context lasts."""
    vault = Vault()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, document = vault.answer(self.headers["X-Vault-Token"], self.path)
            vault.read.append((self.path.removeprefix(_MOUNT), status))
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        vault.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()
