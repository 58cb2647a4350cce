"""What is fuzzed of published models: their configurations, their sizes, their weights."""

import copy
import hashlib
import json
import tempfile
from functools import cache
from pathlib import Path

import torch
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save

from dimo_cli.errors import SpecError
from dimo_cli.hub.published import HubFile, Published
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics import dinov2, geneval_detector
from dimo_cli.rewards import aesthetic, clip
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.students.folder import BUILTIN, load_student, save_student
from dimo_cli.students.student import LoadOptions
from dimo_cli.teachers.hub_text import load_text_encoder
from dimo_cli.teachers.maskgit import VQGAN_CONFIG
from dimo_cli.teachers.registry import blueprint_of, load_skeleton, load_teacher
from tests.helpers.fake_hub import FakeHub
from tests.helpers.golden import load_golden
from tests.helpers.published import publish_maskbit
from tests.torture.inputs import HUGE, broken, lying_json, lying_safetensors, text_of
from tests.torture.targets_files import TORCH, WEIGHTS
from tests.torture.targets_runs import damaged

# Few layers, so that a sound network is built in no time; nothing is allocated for any.
SMALL = {
    "maskgit": {"depth": 1, "ch_mult": [1, 1], "num_res_blocks": 1},
    "maskbit": {"depth": 1, "channel_mult": [1, 1], "num_res_blocks": 1},
    "titok-l32": {"num_hidden_layers": 1},
    "maskgen-l": {"decoder_depth": 1, "text_layers": 2},
    "meissonic": {"num_layers": 1, "num_single_layers": 1},
    "amused-256": {"num_hidden_layers": 1, "num_res_blocks": 1},
    "muddit": {"num_layers": 1, "num_single_layers": 1},
    "lumina-dimoo": {"n_layers": 1},
    "halton-tiny": {"depth": 1, "ch_mult": [1, 1], "num_res_blocks": 1},
    "showo": {"num_hidden_layers": 1, "intermediate_size": 64},
}


def settings_of(name):
    """All settings that a family takes, as JSON has them."""
    found = blueprint_of(TeacherSource(name=name, architecture=SMALL[name])).architecture
    return json.loads(json.dumps(found))


SETTINGS = {name: settings_of(name) for name in SMALL}


@st.composite
def sizes(draw, settings):
    """Settings of which some are another number, of any size, at any depth."""
    found = copy.deepcopy(settings)
    for _ in range(draw(st.integers(1, 2))):
        node = found
        while isinstance(node, (dict, list)) and node:
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            if not isinstance(node[key], (dict, list)):
                node[key] = draw(st.one_of(st.integers(-2, 40), st.sampled_from(HUGE)))
            node = node[key]
    return found


def architectures(data, folder):
    """`teacher.architecture`: a network is planned, or refused before it is built."""
    name = data.draw(st.sampled_from(sorted(SMALL)))
    changed = data.draw(st.one_of(sizes(SETTINGS[name]), lying_json(SETTINGS[name])))
    try:
        source = TeacherSource.model_validate({"name": name, "architecture": changed})
    except ValidationError as error:
        raise SpecError("no architecture") from error
    load_skeleton(source)


VQGAN = {"model": {"params": {"n_embed": 1024, "embed_dim": 256, "ddconfig": {
    "ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [16], "resolution": 256,
    "z_channels": 256}}}}  # fmt: skip
TEXT_TOWER = {"vocab_size": 49, "hidden_size": 8, "intermediate_size": 16, "projection_dim": 8,
              "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 77,
              "hidden_act": "gelu", "eos_token_id": 48}  # fmt: skip
VISION = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "patch_size": 14,
    "num_attention_heads": 2,
    "image_size": 28,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
}
CLIP = {"text_config": TEXT_TOWER, "vision_config": VISION, "projection_dim": 8}
DETECTOR = {"model_type": "mask2former", "id2label": {str(n): "x" for n in range(80)},
            "hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 1}  # fmt: skip
SMALL_WEIGHTS = save(WEIGHTS)


def detector(store):
    geneval_detector.load_mask2former(store)


READERS = {
    "vqgan": (VQGAN_CONFIG, VQGAN, lambda store: blueprint_of(
        TeacherSource(name="maskgit"), store.config)),
    "text": (HubFile("a/b", "text_encoder/config.json"), TEXT_TOWER,
             lambda store: load_text_encoder("a/b", store)),
    "dinov2": (dinov2.CONFIG, VISION, dinov2.load_dinov2),
    "clip": (clip.CARDS["pickscore"].other_files[0], CLIP,
             lambda store: clip.load("pickscore", store)),
    "aesthetic": (aesthetic.CARDS["aesthetic"].other_files[0], CLIP,
                  lambda store: aesthetic.load("aesthetic", store)),
    "detector": (geneval_detector.CONFIG, DETECTOR, detector),
}  # fmt: skip


def configurations(data, folder):
    """The config file of a published model, with weights that are of another one."""
    file, sound, read = READERS[data.draw(st.sampled_from(sorted(READERS)))]
    other_sizes = sizes(sound).map(lambda tree: json.dumps(tree).encode())
    content = data.draw(st.one_of(damaged(sound), other_sizes))
    path = folder / file.repo / file.path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for name in ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin"):
        (path.parent / name).write_bytes(SMALL_WEIGHTS)
    read(HubStore(folder))


def published_weights(data, folder):
    """A file of weights in a local folder or a mirror: lying headers, damage, other kinds."""
    name = data.draw(st.sampled_from(["model.safetensors", "model.bin"]))
    sound = SMALL_WEIGHTS if name.endswith("safetensors") else TORCH[0]
    kinds = [broken(sound), st.just(sound), st.binary(max_size=40)]
    if sound is SMALL_WEIGHTS:
        kinds.append(lying_safetensors(sound))
    (folder / name).write_bytes(data.draw(st.one_of(kinds)))
    inside = data.draw(st.sampled_from([None, "a"]))
    published = Published((HubFile("owner/name", name),), inside=inside)
    found = HubStore(folder).weights(published)
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.values())


FOREIGN = json.loads((BUILTIN["digits"] / "dimo.json").read_text())


@cache
def small_maskbit():
    """Published files by place, their architecture, and a student of them: manifest, weights."""
    hub = FakeHub()
    architecture = publish_maskbit(hub, load_golden)
    files = {f"{repo}/{path}": content for (repo, path), content in hub.files.items()}
    with tempfile.TemporaryDirectory() as name:
        teacher = load_teacher(source_in(Path(name), files, architecture))
        settings = {"name": "maskbit", "architecture": architecture}
        spec = DistillSpec.model_validate({"teacher": settings})
        student = save_student(Path(name) / "student", spec, teacher, teacher.backbone)
        weights = (Path(name) / "student" / "model.safetensors").read_bytes()
    return files, architecture, student.manifest.model_dump(mode="json"), weights


def source_in(folder, files, architecture):
    """A folder with published files, as a user names it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return TeacherSource(name="maskbit", local_dir=str(folder), architecture=architecture)


def students_of_a_small_teacher(data, folder):
    """A student of a published teacher whose files are there, and that was used before."""
    files, architecture, manifest, weights = small_maskbit()
    load_teacher(source_in(folder / "files", files, architecture))  # by its user, who accepts them
    manifest = copy.deepcopy(manifest)
    match data.draw(st.sampled_from(["sound", "sizes", "manifest", "header"])):
        case "sizes":
            manifest["teacher"]["architecture"] = data.draw(sizes(architecture))
        case "manifest":
            manifest = data.draw(lying_json(manifest))
        case "header":
            weights = data.draw(lying_safetensors(weights))
            manifest["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    (folder / "dimo.json").write_text(text_of(manifest))
    (folder / "model.safetensors").write_bytes(weights)
    load_student(folder, LoadOptions(local_dir=str(folder / "files")))


def students_of_other_teachers(data, folder):
    """A student that says it is of a published teacher, of whatever size it claims."""
    if data.draw(st.booleans()):
        students_of_a_small_teacher(data, folder)
        return
    name = data.draw(st.sampled_from(sorted(SMALL)))
    manifest = copy.deepcopy(FOREIGN)
    manifest["teacher"] |= {"name": name, "revision": "local"}
    manifest["teacher"]["architecture"] = data.draw(sizes(SETTINGS[name]))
    (folder / "dimo.json").write_text(json.dumps(manifest))
    weights = (BUILTIN["digits"] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "empty").mkdir()
    load_student(folder, LoadOptions(local_dir=str(folder / "empty")))


TARGETS = {
    "architectures": architectures,
    "configurations": configurations,
    "published weights": published_weights,
    "students of other teachers": students_of_other_teachers,
}
