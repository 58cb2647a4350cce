"""A Hub on this machine: repositories of files over HTTP, and faults on demand."""

import gzip
import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"


def as_pointer(sha256, size):
    """What the Hub says of a large file."""
    return {"sha256": sha256, "size": size, "pointerSize": 130}


@dataclass
class FakeHub:
    """Files by (repository, path); `faults` says what goes wrong with a path, and how often."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    faults: dict[str, list[str]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    sent: int = 0
    """Bytes of answers without an end."""
    url: str = ""
    heads: dict[str, str] = field(default_factory=dict)
    """The newest commit of a repository that was pushed to."""
    past: dict[tuple[str, str], dict[tuple[str, str], bytes]] = field(default_factory=dict)
    """What a repository held at earlier commits."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers in place of the true ones."""
    descriptions: dict[str, dict] = field(default_factory=dict)
    """What is told of a dataset in place of the truth."""
    afterwards: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What happens once a file was sent."""

    def add(self, repo, path, content):
        """Publish a file."""
        self.files[(repo, path)] = content

    def push(self, repo, files):
        """Publish files in a commit of its own, which is what `main` stands for from then on."""
        head = self.heads.get(repo, COMMIT)
        self.past[(repo, head)] = dict(self.files)
        self.heads[repo] = hashlib.sha1(head.encode()).hexdigest()
        for path, content in files.items():
            self.add(repo, path, content)
        return self.heads[repo]

    def at(self, repo, revision):
        """The commit that a revision stands for and all files of then; None if there is none."""
        head = self.heads.get(repo, COMMIT)
        if revision in ("main", head):
            return head, self.files
        return (revision, self.past[(repo, revision)]) if (repo, revision) in self.past else None

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
        path = urlparse(self.path).path.strip("/")
        parts = [unquote(part) for part in path.split("/")]
        if parts[:2] == ["api", "datasets"]:
            return self.describe("/".join(parts[1:4]), [*parts, "main"][5])
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
        found = self.hub.at(repo, revision)
        if found is None:
            return self.fail(404, "RevisionNotFound")
        commit, files = found
        if (repo, name) not in files:
            return self.fail(404, "EntryNotFound")
        self.send(files[(repo, name)], fault if send_body else "", send_body, commit)
        if send_body and name in self.hub.afterwards:
            self.hub.afterwards.pop(name)()
        return None

    def describe(self, repo, revision):
        """What a dataset has, as the Hub tells it; also of a gated one."""
        self.hub.requests.append((self.command, f"api/{repo}"))
        fault = (self.hub.fault_for(f"api/{repo}") or "").removeprefix("always ")
        if fault.isdigit():
            return self.fail(int(fault), None)
        if repo not in {known for known, _ in self.hub.files}:
            return self.fail(404, "RepoNotFound")
        found = self.hub.at(repo, revision)
        if found is None:
            return self.fail(404, "RevisionNotFound")
        commit, files = found
        siblings = [
            {
                "rfilename": path,
                "size": len(content),
                "blobId": hashlib.sha1(content).hexdigest(),
                "lfs": as_pointer(hashlib.sha256(content).hexdigest(), len(content)),
            }
            for (owner, path), content in files.items()
            if owner == repo
        ]
        about = {"id": repo.removeprefix("datasets/"), "sha": commit, "siblings": siblings}
        body = json.dumps(about | self.hub.descriptions.get(repo, {})).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None

    def fail(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        for header, value in ({"Content-Length": "0"} | self.hub.headers).items():
            self.send_header(header, value)
        self.end_headers()

    def send(self, content, fault, send_body, commit=COMMIT):
        etag = hashlib.sha256(content).hexdigest()
        size, start = len(content), 0
        if "Range" in self.headers and send_body:
            self.hub.ranges.append(self.headers["Range"])
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        headers = {
            "ETag": f'"{etag}"',
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(size),
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Length": str(size - start),
        }
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if fault == "packed":
            content = gzip.compress(content)
            headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(content))}
        if fault.startswith("endless"):
            del headers["Content-Length"]
        for name, value in (headers | self.hub.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.send_bytes(content[start:], fault)

    def send_bytes(self, body, fault):
        if fault == "wrong bytes":
            body = bytes(byte ^ 0x55 for byte in body)
        if fault == "drop":
            body = body[: len(body) // 2]
        with suppress(OSError):  # of a client that has had enough
            if fault == "endless":
                self.send_for_ever(body * 100, 0.0)
            elif fault == "endless trickle":
                self.send_for_ever(b"x", 0.05)
            self.wfile.write(body)
        if fault == "drop":
            self.close_connection = True

    def send_for_ever(self, piece, pause):
        """Until the client hangs up, or a minute is over."""
        self.close_connection = True
        until = time.monotonic() + 60
        while time.monotonic() < until:
            self.wfile.write(piece)
            self.hub.sent += len(piece)
            time.sleep(pause)


def serve(hub, handler=Handler):
    """Start a server for `hub`; returns it, to be shut down by the caller."""
    handler = type("BoundHandler", (handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    return server


def let_the_client_log():
    """To the stderr of now: its handler has that of its first import, which a test may close."""
    import huggingface_hub.utils  # noqa: F401 - makes the handler

    for handler in logging.getLogger("huggingface_hub").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.stream = sys.stderr  # setting it by its method would flush the closed one
