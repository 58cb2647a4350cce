"""A Hub on this machine: repositories of files over HTTP, and faults on demand."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


@dataclass
class FakeHub:
    """Files by (repository, path); `faults` says what goes wrong with a path, and how often."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repo, path, content):
        """Publish a file."""
        self.files[(repo, path)] = content

    def downloads(self):
        """Paths that were really sent, in order."""
        return [path for method, path in self.requests if method == "GET"]

    def fault_for(self, path):
        """The next fault of a path, if any is left."""
        for name, faults in self.faults.items():
            if path.endswith(name) and faults:
                return faults[0] if faults[0].startswith("always ") else faults.pop(0)
        return None


class Handler(BaseHTTPRequestHandler):
    """`/owner/name/resolve/revision/path`, as the Hub's own client asks for it.

    The repository of a dataset is `datasets/owner/name`.
    """

    hub: FakeHub

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def log_message(self, *args):
        pass

    def answer(self, send_body):
        path = unquote(urlparse(self.path).path).strip("/")
        parts = path.split("/")
        depth = 3 if parts[0] == "datasets" else 2
        if len(parts) < depth + 3 or parts[depth] != "resolve":
            return self.fail(404, "RepoNotFound")
        repo, revision = "/".join(parts[:depth]), parts[depth + 1]
        name = "/".join(parts[depth + 2 :])
        self.hub.requests.append((self.command, f"{repo}/{name}"))
        fault = (self.hub.fault_for(f"{repo}/{name}") or "").removeprefix("always ")
        if fault.isdigit():
            return self.fail(int(fault), None)
        known = {known_repo for known_repo, _ in self.hub.files}
        if repo not in known:
            return self.fail(401 if fault == "private" else 404, "RepoNotFound")
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401, "GatedRepo")
        if revision not in ("main", COMMIT):
            return self.fail(404, "RevisionNotFound")
        if (repo, name) not in self.hub.files:
            return self.fail(404, "EntryNotFound")
        return self.send(self.hub.files[(repo, name)], fault if send_body else "", send_body)

    def fail(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, content, fault, send_body, commit=COMMIT):
        etag = hashlib.sha256(content).hexdigest()
        size, start = len(content), 0
        if "Range" in self.headers and send_body:
            self.hub.ranges.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        if not send_body:
            return
        body = content[start:]
        if fault == "wrong bytes":
            body = bytes(byte ^ 0x55 for byte in body)
        if fault == "drop":
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if fault == "drop":
            self.close_connection = True


def serve(hub, handler=Handler):
    """Start a server for `hub`; returns it, to be shut down by the caller."""
    handler = type("BoundHandler", (handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server
