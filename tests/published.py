"""Golden checkpoints in the layout their authors publish: what a fake Hub serves."""

import io
import json
import math

import torch
import yaml
from safetensors.torch import save

from dimo_cli.teachers.registry import blueprint_of
from dimo_cli.specs.distill import TeacherSource


def pickled(content):
    """Bytes of a torch file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def publish_maskgit(hub, golden):
    """The repository of MaskGit; returns what differs from the published architecture."""
    config = golden("maskgit/config.json")
    repo, folder = "llvictorll/Maskgit-pytorch", "pretrained_maskgit"
    weights = golden("maskgit/transformer.safetensors")
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    hub.add(
        repo,
        f"{folder}/MaskGIT/MaskGIT_ImageNet_256.pth",
        pickled(
            {
                "iter": 10,
                "global_epoch": 2,
                "model_state_dict": weights,
                "optimizer_state_dict": moments,
            }
        ),
    )
    vqgan = {**golden("maskgit/vqgan.safetensors"), "loss.discriminator.main.0.bias": torch.ones(2)}
    hub.add(repo, f"{folder}/VQGAN/last.ckpt", pickled({"epoch": 3, "state_dict": vqgan}))
    params = {**config["vqgan"], "lossconfig": {"target": "unused"}}
    hub.add(repo, f"{folder}/VQGAN/model.yaml", yaml.safe_dump({"model": {"params": params}}).encode())
    hub.add("Yuanzhi/DiMO", "maskgit/pytorch_model.bin", pickled(weights))
    transformer = config["transformer"]
    names = ("hidden_dim", "depth", "heads", "mlp_dim", "dropout", "nclass")
    return {
        **{name: transformer[name] for name in names},
        "grid": math.isqrt(transformer["seq_len"] - 1),
    }


def publish_maskbit(hub, golden):
    """Both repositories of the 14-bit MaskBit: nothing but two pickles."""
    config = golden("maskbit/config.json")
    for part in ("generator", "tokenizer"):
        weights = golden(f"maskbit/{part}.safetensors")
        if part == "generator":
            weights = {
                name.replace("input_proj.", "token_emb."): value for name, value in weights.items()
            }
        hub.add(f"markweber/maskbit_{part}_14bit", f"maskbit_{part}_14bit.bin", pickled(weights))
    generator, tokenizer = config["generator"], config["tokenizer"]
    names = ("bits", "codebook_splits", "img_size", "hidden_dim", "depth", "heads", "mlp_dim")
    return {
        **{name: generator[name] for name in (*names, "dropout", "nclass")},
        **{name: tokenizer[name] for name in ("hidden_channels", "channel_mult", "num_res_blocks")},
    }


def publish_titok(hub, golden):
    """The L-32 repositories: a config file and a safetensors file each."""
    config = golden("maskgen/config.json")
    settings = config["titok"]["tokenizer_and_vit_generator"]
    for part, file in (("tokenizer", "titok_tokenizer"), ("generator", "titok_vit_generator")):
        repo = f"yucornetto/{part}_titok_l32_imagenet"
        hub.add(repo, "model.safetensors", save(golden(f"maskgen/{file}.safetensors")))
        hub.add(repo, "config.json", json.dumps(named_sizes(settings)).encode())
    sizes = config["golden"]["tiny_sizes"]
    vq_model = settings["model"]["vq_model"]
    return {
        "pixel_decoder": config["titok"]["pixel_decoder"],
        "vit_enc_model_size": sizes[vq_model["vit_enc_model_size"]],
        "vit_dec_model_size": sizes[vq_model["vit_dec_model_size"]],
    }


def named_sizes(settings):
    """The config as published: the golden sizes have names that upstream does not know."""
    settings = json.loads(json.dumps(settings))
    settings["model"]["vq_model"] |= {"vit_enc_model_size": "large", "vit_dec_model_size": "large"}
    return settings


def refers_to(name, architecture):
    """The blueprint that the CLI will build from these overrides."""
    return blueprint_of(TeacherSource(name=name, architecture=architecture))
