"""Examines the judges of `emoji` on draws of other seeds than those that they were trained on.

    python examples/examine_emoji_judges.py --teacher runs/emoji-teacher --work runs/emoji-judges \
        --out benchmarks/results/emoji_judges.json

The reader: what it reads off drawn pictures, and how often it sees a thing on parts of two.
The rewards: how often they score a true picture above a false one of the same caption (AUC), for
drawn pictures and for those that the teacher draws in one step to sixteen. What is true of the
latter says a rule, the nearest of all pictures of the world, and not the reader. Two cautions: the
world has 42,480 pictures, so the reader has seen nearly every drawn one, with noise, in training;
and it learned what is whole by the rule's own limit, so that they agree is no proof of either.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from emoji_judges_data import blended, drawn, painted, said_of
from emoji_sampled import STEPS, sampled
from safetensors.torch import load_file
from train_shapes_judges import within_prompt_auc

from dimo_cli.files.writing import file_sha256
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.emoji import right_of
from dimo_cli.metrics.emoji_reader import SURE, answers, load_emoji, look_of
from dimo_cli.rewards.registry import load_reward
from dimo_cli.teachers.builtin import builtin_path
from dimo_cli.teachers.emoji.tokenizer import EmojiTokenizer
from dimo_cli.teachers.emoji.world import read
from dimo_cli.teachers.small import fill_from

SEED = 9_000_000
REWARDS = ("emoji_clip", "emoji_preference")
PICTURES, CAPTIONS = 3000, 250


def examine_reader(drawings, tokenizer):
    """Accuracies on drawn pictures, as they are and through the tokenizer; belief on mixtures."""
    reader, generator = load_emoji(), torch.Generator().manual_seed(SEED)
    images, truth = drawn(drawings, PICTURES, SEED)
    tokens = torch.cat(
        [tokenizer.decode(tokenizer.encode(p)).clamp(-1, 1) for p in images.split(250)]
    )
    found = {"weights": sha256_of("emoji_features"), "sure": SURE, "pictures": PICTURES}
    for name, part in (("drawn", images), ("through the tokenizer", tokens)):
        found[name] = accuracies(reader, part, truth)
    for share in (0.2, 0.35, 0.5):
        others = images.roll(1, 0)
        both = blended(images, others, torch.full((PICTURES,), share), generator)
        found[f"{share:.0%} of another picture"] = accuracies(reader, both, truth)
    return found


def accuracies(reader, images, truth):
    """Of all pictures, the share on which each answer is right, and on which a thing is seen."""
    seen = reader.looks(as_bytes(images))
    looks = [look_of(row) for row in truth.tolist()]
    right = {
        field: np.mean([s is not None and getattr(s, field) == getattr(k, field) for s, k in pairs])
        for field in answers()
        for pairs in [list(zip(seen, looks, strict=True))]
    }
    shares = {**right, "sees a thing": np.mean([look is not None for look in seen])}
    return {name: round(float(share), 4) for name, share in shares.items()}


def as_bytes(images):
    """Pictures in [-1, 1] as bytes."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte()


def examine_rewards(drawings, tokenizer, options):
    """The AUC within a caption, of drawn pictures and of the teacher's."""
    shelf = sampled(options.teacher, drawings, CAPTIONS, SEED, options.work / f"sampled-{SEED}.npz")
    images, truth = drawn(drawings, CAPTIONS, SEED + 1)
    generator = torch.Generator().manual_seed(SEED)
    tokens = painted(tokenizer, images, generator)
    share = torch.full((CAPTIONS,), 0.35)
    broken = blended(tokens, tokens.roll(1, 0), share, generator)
    true_words, false_words = said_of(truth, SEED)
    found = {}
    for name in REWARDS:
        reward = load_reward(name, HubStore())
        drawn_score = [
            scores(reward, tokens, true_words),
            scores(reward, tokens, false_words),
            scores(reward, tokens.roll(1, 0), true_words),
            scores(reward, broken, true_words),
        ]
        truth_first = {
            what: within_prompt_auc(
                torch.stack([drawn_score[0], other], 1), torch.tensor([[True, False]] * CAPTIONS)
            )
            for what, other in zip(("near miss", "another", "broken"), drawn_score[1:], strict=True)
        }
        pictures = torch.from_numpy(shelf["pictures"]).flatten(0, 1).permute(0, 3, 1, 2)
        words = torch.from_numpy(shelf["words"]).repeat_interleave(len(STEPS), 0)
        given = scores(reward, pictures.float() / 127.5 - 1, words).view(CAPTIONS, -1)
        auc = within_prompt_auc(given, torch.from_numpy(shelf["true"]))
        aucs = {**truth_first, "teacher": auc}
        found[name] = {"weights": sha256_of(name)} | {k: round(v, 4) for k, v in aucs.items()}
    return found


@torch.inference_mode()
def scores(reward, images, words):
    """The scores of pictures with word numbers [N, W]."""
    network = reward.network
    if reward.name == "emoji_preference":
        return network(images, network.read(words))
    return (network.embed_pictures(images) * network.embed_text(words)).sum(1)


def examine_agreement(options):
    """How often the reader and the rule agree on what the teacher drew, by its steps."""
    shelf, reader = dict(np.load(options.work / f"sampled-{SEED}.npz")), load_emoji()
    found = {}
    for at, steps in enumerate(STEPS):
        images = torch.from_numpy(shelf["pictures"][:, at]).permute(0, 3, 1, 2)
        scenes = [read(caption).scene for caption in shelf["captions"].tolist()]
        pairs = zip(scenes, reader.looks(images), strict=True)
        true = np.array([all(right_of(scene, look).values()) for scene, look in pairs])
        found[str(steps)] = {
            "true, says the reader": round(float(true.mean()), 4),
            "true, says the rule": round(float(shelf["true"][:, at].mean()), 4),
            "agree": round(float((true == shelf["true"][:, at]).mean()), 4),
        }
    return found


def sha256_of(name):
    """The hash of a judge's weights in the package."""
    return file_sha256(Path(builtin_path(f"{name}.safetensors")))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_emoji.py")
    parser.add_argument("--work", type=Path, required=True, help="where sampled pictures are kept")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    drawings = {
        size: tensor.numpy()
        for size, tensor in load_file(options.teacher / "drawings.safetensors").items()
    }
    tokenizer = fill_from(EmojiTokenizer(), options.teacher / "emoji_tokenizer.safetensors")
    document = {
        "command": f"python {' '.join(sys.argv)}",
        "reader": examine_reader(drawings, tokenizer),
        "rewards": examine_rewards(drawings, tokenizer, options),
        "teacher by steps": examine_agreement(options),
    }
    print(json.dumps(document, indent=1))
    options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
