"""Golden checkpoints in the layout their authors publish: what a fake Hub serves."""

import io
import json
import math

import torch
import yaml
from safetensors.torch import save

from dimo_cli.teachers import vq_model
from dimo_cli.teachers.amused_parts import settings
from dimo_cli.teachers.dimoo.architecture import Architecture as DimooArchitecture
from dimo_cli.teachers.meissonic import UNUSED_SETTINGS


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
    hub.add(
        repo, f"{folder}/VQGAN/model.yaml", yaml.safe_dump({"model": {"params": params}}).encode()
    )
    hub.add("Yuanzhi/DiMO", "maskgit/pytorch_model.bin", pickled(weights))
    transformer = config["transformer"]
    names = ("hidden_dim", "depth", "heads", "mlp_dim", "dropout", "nclass")
    return {
        **{name: transformer[name] for name in names},
        "grid": math.isqrt(transformer["seq_len"] - 1),
    }


def halton_architecture(config):
    """What differs between the golden networks of Halton-MaskGIT and the published ones."""
    names = ("input_size", "hidden_dim", "depth", "heads", "mlp_dim", "dropout", "nclass")
    sizes = ("codebook_size", "codebook_embed_dim", "z_channels", "ch", "ch_mult", "num_res_blocks")
    return {
        **{name: config["transformer"][name] for name in names},
        **{name: config["tokenizer"][name] for name in sizes},
    }


def publish_halton(hub, golden):
    """Both repositories of Halton-MaskGIT Tiny: nothing but two pickles."""
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    transformer = {
        "iter": 10,
        "global_epoch": 2,
        "model_state_dict": golden("halton/transformer.safetensors"),
        "optimizer_state_dict": moments,
    }
    hub.add("llvictorll/Halton-MaskGIT", "ImageNet_256_tiny.pth", pickled(transformer))
    tokenizer = {"model": golden("halton/tokenizer.safetensors")}
    hub.add("FoundationVision/LlamaGen", "vq_ds16_c2i.pt", pickled(tokenizer))
    return halton_architecture(golden("halton/config.json"))


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


def clip_config(text_width, pooled_width, vocabulary):
    """A text tower of two layers."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": text_width,
        "intermediate_size": 2 * text_width,
        "projection_dim": pooled_width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "eos_token_id": vocabulary - 1,
    }


def publish_text_encoder(hub, repo, text_width, pooled_width):
    """The `text_encoder/` and `tokenizer/` folders of a repository in diffusers' layout."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    config = clip_config(text_width, pooled_width, len(words))
    torch.manual_seed(0)
    network = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    hub.add(repo, "text_encoder/config.json", json.dumps(config).encode())
    hub.add(repo, "text_encoder/model.safetensors", save(network.state_dict()))
    vocabulary = {word: number for number, word in enumerate(words)}
    hub.add(repo, "tokenizer/vocab.json", json.dumps(vocabulary).encode())
    hub.add(repo, "tokenizer/merges.txt", b"#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    hub.add(repo, "tokenizer/tokenizer_config.json", json.dumps(settings).encode())


def publish_transformer(hub, golden, name, repo, suffix="", folder="transformer"):
    """A transformer in diffusers' layout; returns its config."""
    config = golden(f"{name}/config{suffix}.json")
    weights = save(golden(f"{name}/transformer{suffix}.safetensors"))
    hub.add(repo, f"{folder}/config.json", json.dumps(config).encode())
    hub.add(repo, f"{folder}/diffusion_pytorch_model.safetensors", weights)
    return config


def publish_vqvae(hub, golden, repo, codes):
    """The VQ model of aMUSEd and Meissonic; returns what offline is to be known of it."""
    vqvae = golden("amused/config_vqvae.json") | {"num_vq_embeddings": codes}
    weights, table = golden("amused/vqvae.safetensors"), "quantize.embedding.weight"
    # The golden transformer of Meissonic may have another number of codes than this codebook.
    weights[table] = weights[table][torch.arange(codes) % len(weights[table])]
    hub.add(repo, "vqvae/config.json", json.dumps(vqvae).encode())
    hub.add(repo, "vqvae/diffusion_pytorch_model.safetensors", save(weights))
    # Whole tokens of this model, and of the published one: that is what is known offline.
    pixels = 2 ** (len(vqvae["block_out_channels"]) - 1)
    return {"image_size": math.lcm(32, 8 * pixels)}


def publish_diffusers(hub, golden, name, repo, suffix=""):
    """A repository in diffusers' layout."""
    config = publish_transformer(hub, golden, name, repo, suffix)
    return config, publish_vqvae(hub, golden, repo, config["codebook_size"])


def publish_meissonic(hub, golden):
    """The Meissonic repository, and the student that others distilled from it."""
    repo = "MeissonFlow/Meissonic"
    config, architecture = publish_diffusers(hub, golden, "meissonic", repo)
    publish_text_encoder(hub, repo, config["joint_attention_dim"], config["pooled_projection_dim"])
    path = "diffusion_pytorch_model.safetensors"
    hub.add(
        "Yuanzhi/DiMO", f"meissonic/transformer/{path}", hub.files[(repo, f"transformer/{path}")]
    )
    return architecture


def publish_muddit(hub, golden):
    """The transformer of Muddit, and what it borrows from Meissonic's repository.

    All sizes are returned, so that planning, which reads no config file, has a small network too.
    """
    folder, lender = "512/transformer", "MeissonFlow/Meissonic"
    config = publish_transformer(hub, golden, "muddit", "MeissonFlow/Muddit", folder=folder)
    widths = (config["joint_attention_dim"], config["pooled_projection_dim"])
    publish_text_encoder(hub, lender, *widths)
    hub.add(lender, "tokenizer/special_tokens_map.json", b"{}")
    known = publish_vqvae(hub, golden, lender, config["codebook_size"])
    vqvae = json.loads(hub.files[(lender, "vqvae/config.json")])
    return {
        **settings(config, UNUSED_SETTINGS),
        "vqvae": settings(vqvae, vq_model.UNUSED_SETTINGS),
        **known,
    }


IDS = ("newline", "begin_image", "end_image", "begin_answer", "end_answer")


def dimoo_architecture(golden):
    """What differs between the golden network of Lumina-DiMOO and the published one."""
    config, vqvae = golden("dimoo/config.json"), golden("dimoo/vqvae/config.json")
    facts = config["golden"]
    texts = [facts["template"].format(prompt=prompt) for prompt in facts["prompts"]]
    return {
        **{name: config[name] for name in DimooArchitecture.model_fields if name in config},
        **{f"{name}_token_id": facts["ids"][name] for name in IDS},
        "vqvae": settings(vqvae, vq_model.UNUSED_SETTINGS),
        "text_length": max(map(len, texts)),  # in letters, of which no token has none
        "image_size": 4 * facts["vq_factor"],
    }


def publish_dimoo(hub, golden):
    """The repository of Lumina-DiMOO: an index, its files, and two other libraries' own."""
    repo, index = "Alpha-VLLM/Lumina-DiMOO", golden("dimoo/model.safetensors.index.json")
    texts = ("config.json", "vqvae/config.json", "tokenizer.json", "model.safetensors.index.json")
    for path in texts:
        hub.add(repo, path, json.dumps(golden(f"dimoo/{path}")).encode())
    shards = sorted(set(index["weight_map"].values()))
    for path in (*shards, "vqvae/diffusion_pytorch_model.safetensors"):
        hub.add(repo, path, save(golden(f"dimoo/{path}")))
    return dimoo_architecture(golden)


def publish_amused(hub, golden):
    """The aMUSEd 256 repository."""
    repo = "amused/amused-256"
    config, architecture = publish_diffusers(hub, golden, "amused", repo)
    publish_text_encoder(hub, repo, config["encoder_hidden_size"], config["cond_embed_dim"])
    return architecture


def publish_maskgen(hub, golden):
    """MaskGen-L: generator, TA-TiTok and a text tower under open_clip's names."""
    config = golden("maskgen/config.json")
    settings = json.dumps(named_sizes(config)).encode()
    generator = golden("maskgen/generator.safetensors")
    del generator["lm_head.weight"]  # the published safetensors file holds the tied tensor once
    for repo, weights in (
        ("turkeyju/generator_maskgen_vq_l", generator),
        ("turkeyju/tokenizer_tatitok_bl128_vq", golden("maskgen/tokenizer.safetensors")),
    ):
        hub.add(repo, "config.json", settings)
        hub.add(repo, "model.safetensors", save(weights))
    text = golden("maskgen/clip_text.safetensors")
    width = config["golden"]["clip_text"]["width"]
    text["token_embedding.weight"] = torch.randn(49408, width)  # as many words as the real one
    tower = {**text, "visual.proj": torch.ones(2, 2), "logit_scale": torch.ones(())}
    hub.add("timm/vit_large_patch14_clip_336.openai", "open_clip_pytorch_model.bin", pickled(tower))
    sizes, vq_model = config["golden"]["tiny_sizes"], config["model"]["vq_model"]
    return {
        "vit_enc_model_size": sizes[vq_model["vit_enc_model_size"]],
        "vit_dec_model_size": sizes[vq_model["vit_dec_model_size"]],
        "text_layers": config["golden"]["clip_text"]["layers"],
        "text_heads": config["golden"]["clip_text"]["heads"],
    }


def showo_architecture(config):
    """What differs between the golden networks of Show-o and the published ones."""
    of_phi = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
              "partial_rotary_factor", "rope_theta", "layer_norm_eps")  # fmt: skip
    sizes = ("ch", "ch_mult", "num_res_blocks")
    halves = {half: config["magvitv2"][half] for half in ("encoder", "decoder")}
    return {
        **{name: config[name] for name in ("codebook_size", "llm_vocab_size", "num_vq_tokens")},
        **{name: config["phi"][name] for name in of_phi},
        "max_seq_length": config["golden"]["max_seq_length"],
        "magvitv2": {half: {n: settings[n] for n in sizes} for half, settings in halves.items()},
    }


def showo_words(config):
    """A tokenizer of letters and spaces, with as many ids as the golden one and its end of text."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    count, end = config["llm_vocab_size"], config["golden"]["eos_token_id"]
    known = [*"abcdefghijklmnopqrstuvwxyz", "Ġ", *(f"word{index}" for index in range(count))]
    words = [*known[:end], "<|endoftext|>", *known[end : count - 1]]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def publish_showo(hub, golden):
    """The three repositories of Show-o; of phi-1.5, sizes and tokenizer alone."""
    config, path = golden("showo/config.json"), "pytorch_model.safetensors"
    own = {name: value for name, value in config.items()
           if name not in ("phi", "magvitv2", "golden")}  # fmt: skip
    hub.add("showlab/show-o", "config.json", json.dumps(own).encode())
    hub.add("showlab/show-o", path, save(golden("showo/showo.safetensors")))
    hub.add("showlab/magvitv2", path, save(golden("showo/magvitv2.safetensors")))
    hub.add("microsoft/phi-1_5", "config.json", json.dumps(config["phi"]).encode())
    hub.add("microsoft/phi-1_5", "tokenizer.json", showo_words(config).to_str().encode())
    return showo_architecture(config)
