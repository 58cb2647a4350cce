"""A Hub on this machine that can be pushed to: repositories with branches, tags, pull requests.

It speaks what the Hub's own client speaks when Xet is switched off: preupload, LFS batches with
single or multipart uploads, and commits as lines of JSON. `faults` maps the end of a path to what
goes wrong there: `drop` (the connection), `lose` (the answer, after the work was done), or a status
with an optional message, such as `403 Private repository storage limit reached`.
"""

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlparse

from tests.helpers.fake_hub import TOKEN, FakeHub, Handler

OWNER, READ_ONLY = "maker", "hf_reads_only"
LFS_ENDINGS = (".safetensors", ".png")


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """Commits by name, each a whole tree of files; refs point at them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    titles: list[str] = field(default_factory=list)

    def commit(self, tree):
        """Add a commit of these files; returns its name."""
        told = f"{len(self.commits)} {sorted((path, git_hash(c)) for path, c in tree.items())}"
        name = hashlib.sha1(told.encode()).hexdigest()
        self.commits[name] = dict(tree)
        return name

    def resolve(self, revision):
        """The commit that a revision stands for; None if there is none."""
        for refs in (self.branches, self.tags, self.pull_requests):
            if revision in refs:
                return refs[revision]
        return revision if revision in self.commits else None

    def files(self, revision="main"):
        """The files of a revision."""
        return self.commits[self.resolve(revision)]


@dataclass
class UploadHub(FakeHub):
    """Repositories by name, and the large files that have arrived, by hash."""

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    part_size: int | None = None
    """Large files are to come in parts of so many bytes; None: whole."""
    room: int | None = None
    """Larger files than this are refused by the LFS batch; None: all are taken."""
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    received: list[str] = field(default_factory=list)
    """Hashes of large files in the order in which they really arrived."""

    def create(self, name, private=False, files=None):
        """A repository as the Hub makes it: with a first commit."""
        repo = self.repos[name] = Repo(private)
        repo.branches["main"] = repo.commit({".gitattributes": b"", **(files or {})})
        return repo

    def writes(self):
        """Requests that changed something."""
        return [path for method, path in self.requests if method in ("PUT", "POST CHANGE")]


class UploadHandler(Handler):
    """The Hub's API of models, and the files below it."""

    protocol_version = "HTTP/1.1"
    hub: UploadHub

    def do_PUT(self):
        self.answer(True)

    def do_POST(self):
        self.answer(True)

    def answer(self, send_body):
        address = urlparse(self.path)
        self.query = {key: values[0] for key, values in parse_qs(address.query).items()}
        path = address.path.strip("/")
        parts = [unquote(part) for part in path.split("/")]
        self.fault = self.hub.fault_for(unquote(path))
        self.fault = (self.fault or "").removeprefix("always ")
        size = int(self.headers.get("Content-Length") or 0)
        if self.fault == "drop":
            self.rfile.read(size // 2)
            self.close_connection = True
            return None
        self.body = self.read_body(size)
        self.hub.requests.append((self.command, unquote(path)))
        if self.fault[:3].isdigit():
            status, _, message = self.fault.partition(" ")
            return self.refuse(int(status), message)
        if path.startswith("api/"):
            return self.api(parts[1:])
        if path.endswith("info/lfs/objects/batch"):
            return self.batch()
        if parts[0] == "lfs":
            return self.store(parts[1:])
        return self.download(parts, send_body)

    def read_body(self, size):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(size)
        content = b""
        while chunk := int(self.rfile.readline(), 16):
            content += self.rfile.read(chunk)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def reply(self, document, status=200, headers=None):
        if self.fault == "lose":
            self.close_connection = True
            return
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status, message, code=None):
        headers = {"X-Error-Message": message} if message else {}
        self.reply({"error": message}, status, headers | ({"X-Error-Code": code} if code else {}))

    def may(self, write=None):
        """Whether the token is known and, for a repository's name, may write to it."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in ("", TOKEN, READ_ONLY):
            self.refuse(401, "Invalid credentials in Authorization header")
            return False
        if write is not None and (token != TOKEN or write.split("/")[0] != OWNER):
            self.refuse(403, f"You don't have the rights to write to {write}")
            return False
        return True

    def changed(self):
        self.hub.requests.append(("POST CHANGE", unquote(urlparse(self.path).path.strip("/"))))

    def api(self, parts):
        if parts == ["validate-yaml"]:
            return self.reply({"errors": [], "warnings": []})
        if parts == ["repos", "create"]:
            return self.create_repository(json.loads(self.body))
        name, action, rest = "/".join(parts[1:3]), parts[3] if len(parts) > 3 else "", parts[4:]
        if not self.may():
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.headers.get("Authorization")):
            return self.refuse(404, "Repository not found", "RepoNotFound")
        handlers = {
            "": self.describe,
            "revision": self.describe,
            "refs": self.list_refs,
            "paths-info": self.list_paths,
            "preupload": self.preupload,
            "discussions": self.list_discussions,
            "branch": self.make_branch,
            "tag": self.make_tag,
            "commit": self.make_commit,
        }
        if action not in handlers:  # such as `xet-write-token`: this Hub has no Xet
            return self.refuse(404, "Not found")
        if action in ("branch", "tag", "commit") and not self.may(self.right_to(name)):
            return None
        return handlers[action](name, repo, "/".join(rest))

    def right_to(self, name):
        """Everybody may propose a change."""
        proposes = "create_pr" in self.query or "refs/pr/" in unquote(self.path)
        return f"{OWNER}/any" if proposes else name

    def create_repository(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if not self.may(name):
            return None
        url = {"url": f"{self.hub.url}/{name}"}
        if name in self.hub.repos:
            return self.reply(url | {"error": "You already created this model repo"}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.create(name, private)
        self.changed()
        return self.reply(url)

    def describe(self, name, repo, revision):
        commit = repo.resolve(revision or "main")
        if commit is None:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in repo.commits[commit]]
        about = {"id": name, "sha": commit, "private": repo.private, "siblings": siblings}
        return self.reply({**about, "tags": [], "downloads": 0, "likes": 0})

    def list_refs(self, name, repo, _):
        def listed(refs, kind):
            return [
                {"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": commit}
                for ref, commit in refs.items()
            ]

        heads, tags = listed(repo.branches, "heads"), listed(repo.tags, "tags")
        return self.reply({"branches": heads, "tags": tags, "converts": []})

    def list_paths(self, name, repo, revision):
        asked = parse_qs(self.body.decode())["paths"]
        files = repo.files(revision)
        found = []
        for path in asked:
            if path in files:
                content = files[path]
                info = {"type": "file", "path": path, "size": len(content)}
                info["oid"] = git_hash(content)
                if path.endswith(LFS_ENDINGS):
                    oid = hashlib.sha256(content).hexdigest()
                    info["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                found.append(info)
        return self.reply(found)

    def preupload(self, name, repo, revision):
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.reply({"files": files})

    def list_discussions(self, name, repo, _):
        found = [
            {
                "num": number,
                "title": title,
                "status": "open",
                "isPullRequest": True,
                "author": {"name": OWNER},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "repo": {"name": name, "type": "model"},
            }
            for number, title in enumerate(repo.titles, start=1)
        ]
        return self.reply({"discussions": found, "count": len(found), "start": 0})

    def make_branch(self, name, repo, branch):
        if branch in repo.branches:
            return self.refuse(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        self.changed()
        return self.reply({})

    def make_tag(self, name, repo, revision):
        tag = json.loads(self.body)["tag"]
        if tag in repo.tags:
            return self.refuse(409, "Tag reference exists already")
        repo.tags[tag] = repo.resolve(revision)
        self.changed()
        return self.reply({})

    def make_commit(self, name, repo, revision):
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        if header["value"].get("parentCommit", repo.resolve(revision)) != repo.resolve(revision):
            return self.refuse(412, "A commit has happened since")
        tree = dict(repo.files(revision))
        for change in changes:
            value = change["value"]
            if change["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "deletedFile":
                del tree[value["path"]]
            elif value["oid"] in self.hub.blobs:
                tree[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                return self.refuse(400, f"{value['path']} was never uploaded")
        commit = repo.commit(tree)
        url = f"{self.hub.url}/{name}"
        answer = {"commitUrl": f"{url}/commit/{commit}", "commitOid": commit}
        if "create_pr" in self.query:
            repo.titles.append(header["value"]["summary"])
            number = len(repo.titles)
            repo.pull_requests[f"refs/pr/{number}"] = commit
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        elif revision in repo.pull_requests:
            repo.pull_requests[revision] = commit
        else:
            repo.branches[revision] = commit
        self.changed()
        return self.reply(answer)

    def batch(self):
        name = unquote(self.path).strip("/").split(".git/")[0]
        if not self.may(f"{OWNER}/any") or name not in self.hub.repos:
            return None
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            found = {"oid": oid, "size": size}
            if self.hub.room is not None and size > self.hub.room:
                found["error"] = {"code": 422, "message": "Your storage quota is exceeded"}
            elif oid not in self.hub.blobs:
                found["actions"] = {"upload": self.upload_action(oid, size)}
            objects.append(found)
        return self.reply({"transfer": "basic", "objects": objects})

    def upload_action(self, oid, size):
        place = f"{self.hub.url}/lfs/{oid}"
        if self.hub.part_size is None:
            return {"href": place}
        count = math.ceil(size / self.hub.part_size)
        parts = {str(number): f"{place}/{number}" for number in range(1, count + 1)}
        return {"href": place, "header": {"chunk_size": str(self.hub.part_size), **parts}}

    def store(self, parts):
        oid, *number = parts
        if number:
            self.hub.parts[(oid, int(number[0]))] = self.body
            return self.reply({}, headers={"ETag": hashlib.md5(self.body).hexdigest()})
        content = self.body
        if self.command == "POST":  # all parts are there
            count = len(json.loads(self.body)["parts"])
            content = b"".join(self.hub.parts[(oid, part)] for part in range(1, count + 1))
        if hashlib.sha256(content).hexdigest() != oid:
            return self.refuse(400, "The content does not match its hash")
        self.hub.blobs[oid] = content
        self.hub.received.append(oid)
        return self.reply({})

    def download(self, parts, send_body):
        if len(parts) < 5:  # somebody asks whether there is anybody at all
            return self.fail(404, None)
        name, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.headers.get("Authorization")):
            return self.fail(404, "RepoNotFound")
        commit = repo.resolve(revision)
        if commit is None:
            return self.fail(404, "RevisionNotFound")
        if path not in repo.commits[commit]:
            return self.fail(404, "EntryNotFound")
        return self.send(repo.commits[commit][path], "", send_body, commit)
