"""What is fuzzed with files: checkpoints, references, images, weights, students, shards."""

import io
import json
import pickle
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save
from torch import nn

from dimo_cli.data.folders import open_images
from dimo_cli.data.images import open_source
from dimo_cli.data.job import Job, is_finished
from dimo_cli.data.shards import TokenDataset, write_json, write_shard
from dimo_cli.errors import DimoError, MissingError
from dimo_cli.files.tables import columns_of, rows_of
from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.prompts import cleaned
from dimo_cli.hub.weights import read_pickle, state_dict_in
from dimo_cli.metrics.references import build_reference, read_reference, write_reference
from dimo_cli.run_folder.naming import CONTENTS
from dimo_cli.run_folder.verifying import write_contents
from dimo_cli.specs.data import DatasetIndex, Recipe, ShardEntry
from dimo_cli.students.folder import BUILTIN, load_student
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.training.checkpoint import CheckpointFolder
from dimo_cli.training.trainer import Trainer
from tests.conftest import Silent, small_spec
from tests.helpers.pictures import archive, pictures, png
from tests.metrics.test_references import Projection, batches
from tests.metrics.test_references import pictures as noise
from tests.torture.inputs import (
    JSON,
    TEXT,
    broken,
    lying_json,
    lying_safetensors,
    npy_files,
    text_of,
    zipped,
)

DIGITS = load_teacher(small_spec().teacher)
NETWORK = Projection()


def made(write):
    """The bytes of a file that some function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.npz"
        write(path)
        return path.read_bytes()


def network(value=0.0):
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, value)
    return {"student": layer}


def checkpoints(data, folder):
    """A damaged newest checkpoint is passed over; one whose hashes fit the damage as well."""
    kept = CheckpointFolder(folder / "checkpoints")
    kept.save(1, network(1.0), {"progress": {"step": 1}})
    kept.save(2, network(2.0), {"progress": {"step": 2}})
    newest = kept.path(2)
    names = sorted(path.name for path in newest.iterdir())
    path = newest / data.draw(st.sampled_from(names))
    sound = path.read_bytes()
    kinds = [broken(sound)]
    if path.name == CONTENTS:
        kinds.append(lying_json(json.loads(sound)).map(lambda tree: text_of(tree).encode()))
    if path.suffix == ".safetensors":
        kinds.append(lying_safetensors(sound))
    path.write_bytes(data.draw(st.one_of(kinds)))
    if data.draw(st.booleans()) and path.name != CONTENTS:
        (newest / CONTENTS).unlink()
        write_contents(newest)  # whoever damaged it knew how
    loaded = network()
    step, state, _ = kept.load_newest(loaded)
    assert step in (1, 2)
    assert state is not None
    if step == 1:
        raise DimoError("the newest was passed over")


@cache
def checkpoint_of_a_run():
    """A whole checkpoint of a run of a step, as files by name."""
    with tempfile.TemporaryDirectory() as name:
        spec = small_spec(train={"steps": 1, "batch_size": 8})
        Trainer(spec, DIGITS, Path(name), Silent()).run()
        files = (Path(name) / "checkpoints" / "step-1").iterdir()
        return {path.name: path.read_bytes() for path in files}


def run_folders(data, folder):
    """Logs and leftovers of other times in a run folder: what is there is tidied, or refused."""
    trainer = Trainer(small_spec(), DIGITS, folder, Silent())
    newest = folder / "checkpoints" / "step-1"
    newest.mkdir(parents=True)
    files = checkpoint_of_a_run()
    damaged = data.draw(st.sampled_from([*files, *3 * [None]]))
    for name, content in files.items():
        (newest / name).write_bytes(data.draw(broken(content)) if name == damaged else content)
    (folder / "log.jsonl").write_bytes(
        data.draw(broken(b'{"step": 1, "fid": 3}\n{"step": 2}\n{"step": 3, "fid": null}\n'))
    )
    for name in data.draw(st.lists(st.sampled_from(
        [".tmp-step-2-9", ".old-step-1", ".old-step-9", "step-x", "step-2.damaged", "step-3",
         "step-1.damaged"]
    ), unique=True)):  # fmt: skip
        (folder / "checkpoints" / name).mkdir()
    trainer.checkpoints.tidy()
    assert not any((folder / "checkpoints").glob(".*"))
    trainer.progress.step = data.draw(st.integers(0, 3))
    trainer.run_log.truncate(trainer.progress.step)
    for line in (folder / "log.jsonl").read_text().splitlines():
        assert json.loads(line)["step"] <= trainer.progress.step
    trainer.restore()


OWN = made(lambda path: write_reference(path, build_reference(batches(noise(20)), [NETWORK], {})))
ADM = made(lambda path: np.savez(path, mu=np.zeros(6), sigma=np.eye(6)))
CLEAN_FID = made(lambda path: np.savez_compressed(path, feats=np.eye(6, dtype=np.float32)))
IMAGES = made(lambda path: np.savez(path, noise(9)))
SOUND_FACTS = {
    "networks": [
        {
            "name": NETWORK.name,
            "resize": "none",
            "sha256": "a" * 64,
            "dimensions": 6,
            "prefix": "",
        }
    ]
}


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@st.composite
def npz_files(draw):
    """An npz: a sound one with damage, or one of members that lie."""
    if draw(st.booleans()):
        sound = draw(st.sampled_from([OWN, ADM, CLEAN_FID, IMAGES]))
        return draw(st.one_of(st.just(sound), broken(sound)))
    names = ["mu", "sigma", "feats", "arr_0", "facts", "count", "features"]
    arrays = st.sampled_from(
        [np.zeros(6), np.eye(6), np.eye(6) * np.nan, np.zeros((6, 6)), np.ones(6, np.float16),
         np.zeros((2, 4, 4, 3), np.uint8), np.array(3), np.array("x"), np.zeros((0, 6)),
         np.full((3, 6), np.inf, np.float32)]
    ).map(npy)  # fmt: skip
    facts = st.one_of(lying_json(SOUND_FACTS).map(text_of), TEXT).map(
        lambda text: npy(np.array(text))
    )
    members = draw(
        st.dictionaries(st.sampled_from(names), st.one_of(arrays, npy_files(), facts), max_size=5)
    )
    return zipped([(f"{name}.npy", content) for name, content in members.items()])


def references(data, folder):
    path = folder / data.draw(st.sampled_from(["ref.npz", "ref.NPZ"]))
    path.write_bytes(data.draw(npz_files()))
    with torch.inference_mode():
        reference = read_reference(path, NETWORK)
    assert reference.gaussian.mean.isfinite().all()


def npz_images(data, folder):
    kinds = st.one_of(npz_files(), npz_files(), broken(IMAGES), st.just(IMAGES))
    (folder / "images.npz").write_bytes(data.draw(kinds))
    for batch in open_images(folder / "images.npz", least=1).batches(4):
        assert batch.images.dtype == torch.uint8


PICTURES = [png(image) for image in pictures(3)[0]]


def image_archives(data, folder):
    """A zip of images: broken members, broken archive, captions that lie."""
    pictures = st.one_of(st.sampled_from(PICTURES), broken(PICTURES[0]), npy_files(), st.binary())
    names = st.sampled_from(["0.png", "1.png", "2.npy", "3.jpg", "a/0.webp", "../x.png", "4.tif"])
    texts = st.one_of(
        TEXT, JSON.map(text_of), st.just('{"file_name": "0.png", "prompt": "a"}')
    ).map(lambda text: text.encode(errors="surrogatepass"))
    extra = st.dictionaries(
        st.sampled_from(["metadata.jsonl", "captions.txt", "0.txt"]), texts, max_size=1
    )
    members = {**data.draw(st.dictionaries(names, pictures, max_size=4)), **data.draw(extra)}
    content = zipped(members.items())
    if data.draw(st.booleans()):
        content = data.draw(broken(content))
    (folder / "images.zip").write_bytes(content)
    for batch in open_images(folder / "images.zip", least=1).batches(2):
        assert batch.images.ndim == 4


TAR = made(lambda path: archive(path, 3))


def sources(data, folder):
    """What `dimo data encode` reads: .tar files, folders with captions."""
    captions = data.draw(st.booleans())
    if data.draw(st.booleans()):
        (folder / "images.tar").write_bytes(data.draw(broken(TAR)))
        place = folder / "images.tar"
    else:
        place = folder / "photos"
        (place / "one").mkdir(parents=True)
        picture = st.one_of(broken(PICTURES[0]), st.just(PICTURES[0]))
        (place / "one" / "0.png").write_bytes(data.draw(picture))
        lines = st.one_of(JSON.map(text_of), TEXT, st.just('{"file": "one/0.png", "caption": "a"}'))
        name = data.draw(st.sampled_from(["captions.jsonl", "one/0.txt"]))
        (place / name).write_bytes(data.draw(lines).encode(errors="surrogatepass"))
    found = open_source(str(place), captions)
    for index in range(len(found)):
        assert found.image(index, 8).shape == (3, 8, 8)


WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(1)}


def torch_bytes(content, new):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=new)
    return buffer.getvalue()


TORCH = [torch_bytes(WEIGHTS, new) for new in (True, False)]


def torch_files(data, folder):
    """Files of torch in both formats; the error is turned into a sentence by the caller."""
    path = folder / "weights.pt"
    sound = data.draw(st.sampled_from(TORCH))
    path.write_bytes(data.draw(st.one_of(broken(sound), broken(sound), st.just(sound))))
    try:
        found = state_dict_in(read_pickle(path), data.draw(st.sampled_from([None, "a", "model"])))
        assert sum(t.numel() for t in found.values()) * 4 <= 10 * path.stat().st_size
    except pickle.UnpicklingError as error:
        raise MissingError(f"it cannot be read: {error}") from error


def torch_programs(data, folder):
    """Pickles within files of torch, which an archive's own checks would keep from damage."""
    sound = torch_bytes({"a": WEIGHTS, "b": [1, None, (2.0, "x")]}, True)
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    members[name] = data.draw(st.one_of(broken(members[name]), st.just(members[name])))
    (folder / "weights.pt").write_bytes(zipped(members.items(), zipfile.ZIP_STORED))
    try:
        read_pickle(folder / "weights.pt")
    except pickle.UnpicklingError as error:
        raise MissingError(f"it cannot be read: {error}") from error


STATISTICS = [
    pickle.dumps(
        {"fid": {"mu": np.zeros(6), "sigma": np.eye(6)}, "num_images": 9}, protocol=protocol
    )
    for protocol in (0, 2, 4, 5)
]


def statistics_pickles(data, folder):
    path = folder / "ref.pkl"
    path.write_bytes(data.draw(st.one_of([broken(sound) for sound in STATISTICS])))
    reference = read_reference(path, NETWORK)
    assert reference.gaussian.covariance.isfinite().all()


MANIFEST = json.loads((BUILTIN["digits"] / "dimo.json").read_text())
SMALL_SAFETENSORS = save(WEIGHTS)
STUDENT_WEIGHTS = (BUILTIN["digits"] / "model.safetensors").read_bytes()


def students(data, folder):
    """A student folder: its manifest lies, or its weights do and the manifest knows."""
    manifest, weights = dict(MANIFEST), STUDENT_WEIGHTS
    match data.draw(st.sampled_from(["manifest", "text", "weights", "header", "small"])):
        case "manifest":
            manifest = data.draw(lying_json(MANIFEST))
        case "weights":
            weights = data.draw(broken(STUDENT_WEIGHTS))
        case "header":
            weights = data.draw(lying_safetensors(STUDENT_WEIGHTS))
        case "small":
            weights = data.draw(st.one_of(lying_safetensors(SMALL_SAFETENSORS),
                                          broken(SMALL_SAFETENSORS)))  # fmt: skip
    (folder / "model.safetensors").write_bytes(weights)
    if isinstance(manifest, dict) and weights is not STUDENT_WEIGHTS:
        manifest["weights_sha256"] = file_sha256(folder / "model.safetensors")
    text = text_of(manifest).encode()
    if data.draw(st.integers(0, 4)) == 0:
        text = data.draw(broken(text))
    (folder / "dimo.json").write_bytes(text)
    student = load_student(folder)
    assert student.manifest.teacher.name in ("digits", "shapes")


RECIPE = Recipe(
    teacher="digits", revision=DIGITS.revision, image_size=8, resize="-", length=64, groups=1,
    codes=17, condition="labels", shard_size=4,
)  # fmt: skip


def shards(data, folder):
    """Encoded images: an index that lies, or shards that do and the index knows."""
    path = folder / "shard-00000.safetensors"
    write_shard(
        path,
        torch.zeros(4, 64, 1, dtype=torch.uint8),
        torch.arange(4),
        {"recipe": RECIPE.model_dump(mode="json"), "items": "x"},
    )
    sound = path.read_bytes()
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(st.one_of(broken(sound), lying_safetensors(sound))))
    entry = ShardEntry(file=path.name, images=4, sha256=file_sha256(path))
    index = DatasetIndex(dimo="0", source="-", images=4, recipe=RECIPE, shards=(entry,))
    document = index.model_dump(mode="json")
    if data.draw(st.booleans()):
        document = data.draw(lying_json(document))
    write_json(folder / "index.json", json.loads(text_of(document)))
    pictures = SimpleNamespace(names=[*"abcd"], marks=lambda rows: [])
    is_finished(Job(pictures, torch.arange(4), RECIPE, folder, batch=4), 0, range(4))
    dataset = TokenDataset.open(folder, DIGITS)
    tokens, _ = dataset.draw(3, torch.Generator().manual_seed(0))
    assert tokens.max() < 17


ROWS = b'{"text": "a red fox", "label": 3}\n{"text": null, "label": "x"}\n'


def tables_of_lines(data, folder):
    """JSON lines of a dataset, and the prompts that are made of its texts."""
    path = folder / "train.jsonl"
    lines = st.lists(JSON.map(text_of), max_size=4).map("\n".join).map(str.encode)
    path.write_bytes(data.draw(st.one_of(broken(ROWS), lines, st.binary(max_size=60))))
    names = list(columns_of(path)) or ["text"]
    for row in rows_of(path, names):
        assert len(row) == len(names)
        for prompt in map(cleaned, row):
            assert prompt is None or (prompt.strip() == prompt and len(prompt.splitlines()) == 1)


TARGETS = {
    "tables of JSON lines": tables_of_lines,
    "checkpoints": checkpoints,
    "run folders": run_folders,
    "references": references,
    "npz of images": npz_images,
    "zip of images": image_archives,
    "sources to encode": sources,
    "files of torch": torch_files,
    "programs of torch": torch_programs,
    "pickles of statistics": statistics_pickles,
    "students": students,
    "shards": shards,
}
