"""Students of golden-size teachers, from a fake Hub; and built-in ones with other weights."""

import json
import shutil

from safetensors.torch import load_file, save, save_file

from dimo_cli.files.writing import file_sha256
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.manifest import MANIFEST, WEIGHTS
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.students.folder import BUILTIN, save_student
from dimo_cli.teachers.registry import load_teacher
from dimo_cli.teachers.stored import in_numbers
from tests.helpers import published


def publish_titok_s128(hub, golden):
    """The S-128 repositories, whose generator is a U-ViT."""
    config = golden("maskgen/config.json")
    settings = config["titok"]["uvit_generator"]
    for part, file in (("tokenizer", "titok_tokenizer"), ("generator", "titok_uvit_generator")):
        repo = f"yucornetto/{part}_titok_s128_imagenet"
        hub.add(repo, "model.safetensors", save(golden(f"maskgen/{file}.safetensors")))
        hub.add(repo, "config.json", json.dumps(published.named_sizes(settings)).encode())
    sizes, vq_model = config["golden"]["tiny_sizes"], settings["model"]["vq_model"]
    return {
        "pixel_decoder": config["titok"]["pixel_decoder"],
        "vit_enc_model_size": sizes[vq_model["vit_enc_model_size"]],
        "vit_dec_model_size": sizes[vq_model["vit_dec_model_size"]],
    }


def publish_amused_512(hub, golden):
    """The larger aMUSEd, whose transformer sees half the grid."""
    repo = "amused/amused-512"
    config, architecture = published.publish_diffusers(hub, golden, "amused", repo, "_512")
    widths = (config["encoder_hidden_size"], config["cond_embed_dim"])
    published.publish_text_encoder(hub, repo, *widths)
    return architecture


def publish_monetico(hub, golden):
    """Monetico, whose transformer sees the whole grid."""
    repo = "Collov-Labs/Monetico"
    config, architecture = published.publish_diffusers(hub, golden, "meissonic", repo, "_512")
    widths = (config["joint_attention_dim"], config["pooled_projection_dim"])
    published.publish_text_encoder(hub, repo, *widths)
    return architecture


PUBLISH = {
    "maskgit": published.publish_maskgit,
    "maskbit": published.publish_maskbit,
    "titok-l32": published.publish_titok,
    "maskgen-l": published.publish_maskgen,
    "meissonic": published.publish_meissonic,
    "amused-256": published.publish_amused,
    "halton-tiny": published.publish_halton,
    "muddit": published.publish_muddit,
    "lumina-dimoo": published.publish_dimoo,
    "showo": published.publish_showo,
}
OTHER_NETWORKS = {
    "titok-s128": publish_titok_s128,
    "amused-512": publish_amused_512,
    "monetico": publish_monetico,
}
TEXT = ("maskgen-l", "meissonic", "amused-256", "amused-512", "monetico", "showo", "muddit",
        "lumina-dimoo")  # fmt: skip
PROMPTS = ("a red fox", "two boats at sea", "an old door")


def golden_student(name, hub, golden, folder):
    """The folder of a student of a family, and its teacher's files on the hub."""
    architecture = json.dumps({**PUBLISH, **OTHER_NETWORKS}[name](hub, golden))
    sets = [f"teacher.architecture={architecture}"]
    if name in TEXT:
        prompts = folder.with_suffix(".txt")
        prompts.write_text("\n".join(PROMPTS))
        sets.append(f"condition.prompts={prompts}")
    spec = resolve_spec(DistillSpec, preset=name, sets=sets).spec
    teacher = load_teacher(spec.teacher)
    save_student(folder, spec, teacher, teacher.backbone)
    return folder


def changed_student(name, folder, change):
    """A built-in student in a folder of its own, with other weights under a hash that fits."""
    shutil.copytree(BUILTIN[name], folder)
    weights = in_numbers(load_file(folder / WEIGHTS))
    change(weights)
    save_file(weights, folder / WEIGHTS)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["weights_sha256"] = file_sha256(folder / WEIGHTS)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder
