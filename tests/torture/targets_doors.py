"""What is fuzzed of strangers who are no files: mirrors, plugins, texts to print; and programs."""

import contextlib
import hashlib
import io
import json
import logging
import sys
import threading
import time
from unittest.mock import patch

import httpx2
import torch
from huggingface_hub.utils import _http
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from dimo_cli.console import plain
from dimo_cli.console.output import Output
from dimo_cli.engine.divergence import GENERATORS
from dimo_cli.engine.divergence import load_plugins as load_generators
from dimo_cli.errors import DimoError
from dimo_cli.hub import transfer
from dimo_cli.hub.published import HubFile
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics import inception
from dimo_cli.plugins import register_plugins
from dimo_cli.redacting import keeping_secrets
from tests.torture.inputs import HUGE, TEXT, WORDS, broken
from tests.torture.targets_files import torch_bytes


class SmallInception(nn.Module):
    """As the network of the FID is laid out, in a few numbers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 2, 1))
        self.fc = nn.Linear(inception.DIMENSIONS, 2)
        self.output = nn.Linear(inception.DIMENSIONS, 2)

    def forward(self, x):
        return self.output(self.layers(x))

    def trunk(self):
        return self.layers


def script_bytes(network):
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    return buffer.getvalue()


SCRIPT = script_bytes(SmallInception())
OTHER_SCRIPT = script_bytes(nn.Sequential(nn.Linear(2, 2)))
NUMBERS_ALONE = torch_bytes(SmallInception().state_dict(), True)
KNOWN = {
    inception.STATE_DICT: ("https://example.org/a", "0" * 64),
    inception.SCRIPT: ("https://example.org/b", hashlib.sha256(SCRIPT).hexdigest()),
}


def inception_files(data, folder):
    """Programs run only if their hash is known, whatever their names and their zip say."""
    sound = data.draw(st.sampled_from([SCRIPT, OTHER_SCRIPT, NUMBERS_ALONE]))
    content = data.draw(st.one_of(st.just(sound), broken(sound)))
    path = folder / data.draw(st.sampled_from([inception.SCRIPT, inception.STATE_DICT, "x.pt"]))
    path.write_bytes(content)
    loaded, load = [], torch.jit.load

    def loading(name, **options):
        loaded.append(content)
        return load(name, **options)

    with (
        patch.object(inception, "PUBLISHED", KNOWN),
        patch.object(inception, "FidInception", SmallInception),
        patch.object(torch.jit, "load", loading),
    ):
        try:
            inception.load_inception(path=path)
        finally:
            assert set(loaded) <= {SCRIPT}


WEIGHTS = save({"a": torch.ones(300)})
CONFIG = b'{"width": 3}'
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES = st.sampled_from(["x", '"x"', "../../up", "a/b", '""', 'W/"y"', "..", "é", "x" * 500])
SIZES = st.sampled_from([*HUGE, -1, "1e3", "", "٣", "0x10"]).map(str)


@st.composite
def headers_of(draw, content):
    """Headers of a file, of which some are others."""
    digest = hashlib.sha256(content).hexdigest()
    sound = {
        "ETag": f'"{digest}"',
        "X-Linked-Etag": f'"{digest}"',
        "X-Linked-Size": str(len(content)),
        "X-Repo-Commit": COMMIT,
        "Content-Length": str(len(content)),
    }
    lies = st.one_of(
        st.tuples(st.sampled_from(["ETag", "X-Linked-Etag", "X-Repo-Commit"]), NAMES),
        st.tuples(st.sampled_from(["X-Linked-Size", "Content-Length"]), SIZES),
        st.tuples(st.just("Content-Encoding"), st.sampled_from(["gzip", "br", "identity", "x"])),
        st.tuples(st.just("Location"), st.sampled_from(["/x", "http://127.0.0.1:1/", "file:///etc"])),
        st.tuples(st.sampled_from(["Retry-After", "ratelimit"]), st.sampled_from(["1", "9" * 9])),
        st.tuples(st.just("X-Error-Code"), st.sampled_from(["RepoNotFound", "GatedRepo", "x"])),
        st.tuples(st.just("X-Error-Message"), TEXT.map(as_header)),
        st.tuples(st.just("X-Xet-Hash"), NAMES),
    )  # fmt: skip
    changed = dict(draw(st.lists(lies, max_size=2)))
    dropped = draw(st.lists(st.sampled_from(sorted(sound)), max_size=1))
    return {k: as_header(v) for k, v in {**sound, **changed}.items() if k not in dropped}


def as_header(text):
    """Text as a server can send it within a line."""
    text = text.encode("ascii", "replace").decode()
    return "".join(letter for letter in text if letter.isprintable())[:300]


@st.composite
def answers_for(draw, content):
    """What a server sends when it is asked: status, headers, bytes."""
    status = draw(st.sampled_from([200] * 12 + [206, 302, 307, 401, 403, 404, 429, 500, 503]))
    body = draw(st.one_of(*3 * [st.just(content)], broken(content), st.just(content * 40)))
    return status, draw(headers_of(content)), body


class Pieces(httpx2.SyncByteStream):
    """Bytes as they come: no length of them is known before."""

    def __init__(self, content):
        self.content = content

    def __iter__(self):
        yield from (self.content[at : at + 500] for at in range(0, len(self.content), 500))


def mirror(data, folder):
    """A mirror that answers what it likes: a file is whole and where it belongs, or not there."""
    name, content = data.draw(st.sampled_from([("net.safetensors", WEIGHTS), ("a.json", CONFIG)]))
    known = hashlib.sha256(content).hexdigest() if data.draw(st.booleans()) else None
    file = HubFile("owner/net", name, size=len(content) if known else None, sha256=known)
    sound = (200, {"ETag": '"x"', "X-Repo-Commit": COMMIT}, content)
    told = data.draw(st.lists(answers_for(content), min_size=2, max_size=4))
    left, guard = list(told), threading.Lock()

    def answer(request):
        with guard:
            status, headers, body = left.pop(0) if left else sound
        if request.method == "HEAD":
            return httpx2.Response(status, headers=headers)
        return httpx2.Response(status, headers=headers, stream=Pieces(body))

    transport = httpx2.MockTransport(answer)
    client = transfer.WatchedFactory(lambda: httpx2.Client(transport=transport))
    before = _http._GLOBAL_CLIENT_FACTORY
    _http.set_client_factory(client)
    try:
        with (
            patch.dict("os.environ", HF_ENDPOINT="http://mirror.example"),
            patch("dimo_cli.hub.store.answers", return_value=True),
            patch.object(time, "sleep", lambda seconds: None),
        ):
            found = HubStore().locate(file)
    finally:
        _http.set_client_factory(before)
    assert found.path.resolve().is_relative_to(folder)
    assert found.path.stat().st_size <= transfer.MOST_TEXT
    assert known in (None, hashlib.sha256(found.path.read_bytes()).hexdigest())


SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
ORDERS = st.sampled_from(
    ["\x1b]52;c;eA==\x07", "\x1b[2J", "\x9b31m", "::error::x", "##[group]x", "##vso[x]y", "\u202e",
     "\u2066", "\r", "\n::set-output name=a::b", "\t", "\ud800", "\u2028::warning::x", SECRET,
     "https://a:b@c.example/?sig=xyz", "\U000e0041", "plain", "two\nlines", "[bold]", "é", "\u200d"]
)  # fmt: skip


def printed(data, _):
    """No text of a stranger gives an order, wherever it is printed."""
    text = "".join(data.draw(st.lists(st.one_of(ORDERS, WORDS, ORDERS), max_size=4)))
    for found in (plain.shown(text), plain.indented(plain.shown(text)), on_terminals(text)):
        assert plain.visible(found) == found
        assert not any(line.lstrip().startswith("::") for line in found.split("\n"))
        assert "##[" not in found
        assert "##vso[" not in found
        assert SECRET not in found
    assert not set("\n\t\x1b") & set(plain.one_line(text))
    document = plain.in_json(json.dumps({"a": text}))
    assert json.loads(document) == {"a": text}
    assert "##[" not in document
    if plain.shown(text) != text:
        raise DimoError("it was made visible")


def on_terminals(text):
    """What a message, an error and a result of a text are on both streams."""
    streams = io.StringIO(), io.StringIO()
    said = Output()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        said.note(text)
        said.error(DimoError(text or "x", text))
        said.result({"a": text}, text)
    return "".join(stream.getvalue() for stream in streams)


PLACES = st.sampled_from(
    ["json:loads", "json", "math:pi", "nothing:x", "json:nothing", "broken:x", "leaving:x", ":", "",
     "json:loads [extra]", "os.path:join", "..:x", "json:", "sound:f"]
)  # fmt: skip
GROUPS = ("dimo.teachers", "dimo.rewards", "dimo.generators")
SOUND_METADATA = b"Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n"


@st.composite
def entry_points(draw):
    """A file of entry points: some of dimo's groups, some lines that are none."""
    lines = []
    for group in draw(st.lists(st.sampled_from([*GROUPS, *GROUPS, "x", ""]), max_size=3)):
        lines.append(f"[{group}]")
        for _ in range(draw(st.integers(0, 3))):
            name = draw(st.one_of(st.sampled_from(["mine", "maskgit", "clip", "x y"]), TEXT))
            lines.append(f"{name} = {draw(PLACES)}")
    text = "\n".join(lines).encode(errors="surrogatepass")
    return draw(st.one_of(st.just(text), st.just(text), broken(text)))


def plugin_metadata(data, folder):
    """Packages whose metadata is damaged or lies: what can be used is, the rest is named."""
    package = folder / "stranger-1.0.dist-info"
    package.mkdir()
    metadata = data.draw(st.one_of(st.just(SOUND_METADATA), broken(SOUND_METADATA)))
    (package / "METADATA").write_bytes(metadata)
    (package / "entry_points.txt").write_bytes(data.draw(entry_points()))
    (folder / "broken.py").write_text("raise RuntimeError('\\x1b[2J\\n::error::x')\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "sound.py").write_text("def f(u):\n    return u * u - 1\n")
    registered, told = {}, []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    log = logging.getLogger("dimo_cli.plugins")
    log.addHandler(handler)
    sys.path.insert(0, str(folder))
    try:
        with (
            patch.object(plugin_module(), "BROKEN", set()),
            patch.dict(GENERATORS),
            keeping_secrets(plain.shown),
        ):
            for group in GROUPS[:2]:
                register_plugins(group, registered.__setitem__, known=("maskgit", "clip"))
            load_generators()
    finally:
        sys.path.remove(str(folder))
        log.removeHandler(handler)
        for name in ("broken", "leaving", "sound"):
            sys.modules.pop(name, None)
    assert not {"maskgit", "clip"} & registered.keys()
    for message in told:
        assert plain.shown(message) == message
        assert "\n" not in message
    if told:
        raise DimoError("one was left out")


def plugin_module():
    return sys.modules[register_plugins.__module__]


TARGETS = {
    "Inception files": inception_files,
    "answers of a mirror": mirror,
    "printed texts": printed,
    "metadata of plugins": plugin_metadata,
}
