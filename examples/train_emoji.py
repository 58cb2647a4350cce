"""Trains the networks behind the teacher `emoji`: tokenizer, text encoder, then transformer.

    npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6
    pip install resvg-py
    python examples/train_emoji.py --packages . --out runs/emoji-teacher    (hours on 2 CPU cores)

Stopped and started again with the same --out, it goes on from its last checkpoint.
"""

import argparse
import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from emoji_drawings import drawings_of
from safetensors.torch import save_file
from train_shapes import decaying_rate, with_strays

from dimo_cli.engine.masking import draw_ratio, forward_mask
from dimo_cli.teachers.emoji import world
from dimo_cli.teachers.emoji.network import (
    MASK_ID,
    SUMMARY,
    WIDTH,
    WORDS,
    EmojiBackbone,
    EmojiText,
    words_to_ids,
)
from dimo_cli.teachers.emoji.tokenizer import CODE_WIDTH, CODES, EmojiTokenizer
from dimo_cli.teachers.patches import move_codebook
from dimo_cli.teachers.protocol import Cond
from dimo_cli.teachers.small import fill_from
from dimo_cli.teachers.stored import in_bytes

BATCH = 32
SAID = (world.STYLES, world.BACKGROUNDS, world.SIZES, world.PLACES)


def draw_batch(drawings, size, rng, pairs=None):
    """Random pictures as images [B, 3, 32, 32] in [-1, 1], and what they look like."""
    looks = [world.random_look(rng, pairs or world.trained_on()) for _ in range(size)]
    pictures = np.stack([world.compose(look, drawings) for look in looks])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1, looks


class Checkpoint:
    """Where a training stands, kept now and then so that a later run goes on from there."""

    def __init__(self, path, every=250):
        self.path, self.every = path, every

    def read(self):
        """What was kept last, or None."""
        return torch.load(self.path, weights_only=True) if self.path.exists() else None

    def is_due(self, step, steps):
        """Whether to keep something after this step."""
        return (step + 1) % self.every == 0 or step + 1 == steps

    def keep(self, **state):
        """Replace what was kept."""
        new = self.path.with_suffix(".new")
        torch.save(state, new)
        new.replace(self.path)


def draw_mixed(drawings, rng):
    """Images for the tokenizer: half of the world's own things, half of whatever else is drawn."""
    others = range(len(world.things()), len(drawings["large"]))
    images, _ = draw_batch(drawings, 32, rng)
    more, _ = draw_batch(drawings, 32, rng, [(n, s) for n in others for s in world.STYLES])
    return torch.cat([images, more])


def psnr(tokenizer, images):
    """How well pictures survive their tokens, in dB."""
    with torch.no_grad():
        error = tokenizer.decode(tokenizer.encode(images)) - images
    return 10 * math.log10(4 / error.square().mean())


def train_tokenizer(drawings, steps, folder):
    """Reconstruction, first without codes, then with a codebook that follows its vectors."""
    torch.manual_seed(0)
    tokenizer = EmojiTokenizer()
    optimizer = torch.optim.Adam(tokenizer.parameters(), betas=(0.9, 0.99))
    counts, sums = torch.ones(CODES), torch.zeros(CODES, CODE_WIDTH)
    held_out, _ = draw_batch(drawings, 256, random.Random(1), sorted(world.held_out()))
    checkpoint, first = Checkpoint(folder / "tokenizer.pt"), 0
    if state := checkpoint.read():
        tokenizer.load_state_dict(state["tokenizer"])
        optimizer.load_state_dict(state["optimizer"])
        first, counts, sums = state["step"], state["counts"], state["sums"]
    start = steps // 12
    torch.manual_seed(first)
    for step in range(first, steps):
        images = draw_mixed(drawings, random.Random(step))
        latents = tokenizer.latents(images)
        if step == start:
            vectors = latents.detach().flatten(0, 1)
            sums = vectors[torch.randperm(len(vectors))[:CODES]].clone()
            tokenizer.codebook.weight.data.copy_(sums)
        rounded, tokens, distance = tokenizer.commitment(latents)
        with_codes = step >= start
        error = tokenizer.paint(rounded if with_codes else latents) - images
        loss = error.square().mean() + 0.2 * error.abs().mean() + 0.25 * with_codes * distance
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 2e-3)
        optimizer.step()
        if start <= step < 0.9 * steps:
            move_codebook(tokenizer, latents, tokens, counts, sums)
        if step % 50 == 0:
            used, quality = len(tokens.unique()), psnr(tokenizer, held_out)
            say(f"tokenizer {step}: loss {loss:.5f}, {used} codes, held out {quality:.2f} dB")
        if checkpoint.is_due(step, steps):
            state = {"tokenizer": tokenizer.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.keep(**state, counts=counts, sums=sums, step=step + 1)
    return tokenizer


def polish(tokenizer, drawings, steps):
    """The decoder alone, for codes that stay: tokens do not change, and pictures get sharper."""
    torch.manual_seed(0)
    decoder = tokenizer.decoder.requires_grad_(True)
    held_out, _ = draw_batch(drawings, 256, random.Random(1), sorted(world.held_out()))
    optimizer = torch.optim.Adam(decoder.parameters(), betas=(0.9, 0.99))
    average = torch.optim.swa_utils.AveragedModel(
        decoder, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    for step in range(steps):
        images = draw_mixed(drawings, random.Random(steps + step))
        loss = (tokenizer.decode(tokenizer.encode(images)) - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 1e-3)
        optimizer.step()
        average.update_parameters(decoder)
        if step % 100 == 0:
            say(f"decoder {step}: {loss:.5f}, held out {psnr(tokenizer, held_out):.2f} dB")
    tokenizer.decoder.load_state_dict(average.module.state_dict())
    return tokenizer


def draw_captions(looks, rng):
    """What captions may say of these pictures, and one caption of each as word numbers."""
    scenes = [world.random_scene(look, rng) for look in looks]
    return scenes, words_to_ids([world.caption(scene, rng) for scene in scenes])


def facts_of(scene):
    """All that a caption says, as numbers from 0, which stands for unsaid."""
    said = (scene.style, scene.background, scene.size, scene.place)
    numbers = [(None, *table).index(value) for table, value in zip(SAID, said, strict=True)]
    return [scene.thing, *numbers, int(scene.mirrored)]


def with_gaps(ids, rng):
    """In every third caption, a gap where a word is left out that nobody knows."""
    for row in ids:
        if rng.random() < 1 / 3:
            place = rng.randrange(WORDS)
            row[place + 1 :] = row[place:-1].clone()
            row[place] = 0
    return ids


def train_text(steps):
    """A text encoder that reads: its states tell all that a caption says."""
    torch.manual_seed(0)
    text, rng = EmojiText(), random.Random(0)
    tables = (world.things(), *SAID, "x")
    heads = torch.nn.ModuleList(torch.nn.Linear(SUMMARY * WIDTH, 1 + len(t)) for t in tables)
    optimizer = torch.optim.AdamW([*text.parameters(), *heads.parameters()], betas=(0.9, 0.98))
    for step in range(steps):
        scenes, ids = draw_captions(
            [world.random_look(rng, world.trained_on()) for _ in range(128)], rng
        )
        wanted = torch.tensor([facts_of(scene) for scene in scenes])
        states = text(with_gaps(ids, rng)).flatten(1)
        answers = [head(states) for head in heads]
        loss = sum(F.cross_entropy(answer, wanted[:, i]) for i, answer in enumerate(answers))
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 1e-3)
        optimizer.step()
        if step % 100 == 0:
            right = torch.stack([a.argmax(1) == wanted[:, i] for i, a in enumerate(answers)])
            say(f"text {step}: loss {loss:.4f}, {right.all(0).float().mean():.1%} read")
    return settle_text(text, steps // 2)


def facts_alone(scenes):
    """All that captions say, one number for each thing that can be said [B, F]."""
    sizes = [1 + len(table) for table in (world.things(), *SAID, "x")]
    facts = torch.tensor([facts_of(scene) for scene in scenes]).split(1, dim=1)
    return torch.cat([F.one_hot(f[:, 0], n) for f, n in zip(facts, sizes, strict=True)], 1).float()


def settle_text(text, steps):
    """The same encoder, which tells what is said and no longer how.

    Of its states the part is kept that is a sum over what is said: synonyms become one thing, and
    a style means the same of all things.
    """
    rng = random.Random(1)

    def draw(count):
        looks = [world.random_look(rng, world.trained_on()) for _ in range(count)]
        scenes, ids = draw_captions(looks, rng)
        return facts_alone(scenes), ids

    facts, ids = draw(8000)
    with torch.no_grad():
        states = torch.cat([text(part).flatten(1) for part in ids.split(500)])
    gram = facts.T @ facts + 0.1 * torch.eye(facts.shape[1])
    told = torch.linalg.solve(gram, facts.T @ states)
    norm = copy.deepcopy(text.norm).requires_grad_(False)
    text.norm.requires_grad_(False)
    learned = [parameter for parameter in text.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, betas=(0.9, 0.98))
    for step in range(steps):
        facts, ids = draw(128)
        wanted = (facts @ told).unflatten(1, (SUMMARY, WIDTH))
        wanted = norm((wanted - norm.bias) / norm.weight)
        loss = (text(with_gaps(ids, rng)) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = decaying_rate(step, steps, 1e-3)
        optimizer.step()
        if step % 100 == 0:
            say(f"text {step}: {loss:.4f} from what is said")
    return text


class Training:
    """A transformer in training, its optimizer, and the average of its weights, which is used."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.backbone = EmojiBackbone()
        self.average = {n: tensor.clone() for n, tensor in self.backbone.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.backbone.parameters(), betas=(0.9, 0.98), weight_decay=0.02
        )
        self.checkpoint, self.step = Checkpoint(folder / "backbone.pt"), 0
        self.shipped = folder / "emoji_backbone.safetensors"
        if state := self.checkpoint.read():
            self.backbone.load_state_dict(state["backbone"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]

    def learn(self, loss, steps):
        """One of so many steps down a loss, smaller and smaller in the last fifth of them."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.backbone.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-3 * min(
                1, (self.step + 1) / 300, max(0.05, 5 * (1 - self.step / steps))
            )
        self.optimizer.step()
        for name, tensor in self.backbone.state_dict().items():
            self.average[name].lerp_(tensor, 1 - min(0.999, (1 + self.step) / (10 + self.step)))
        self.step += 1

    def keep(self):
        """Write a checkpoint, and the average as it ships."""
        state = {"backbone": self.backbone.state_dict(), "optimizer": self.optimizer.state_dict()}
        self.checkpoint.keep(**state, average=self.average, step=self.step)
        save_file(in_bytes(self.average), self.shipped)


def train_backbone(drawings, tokenizer, text, options):
    """Masked tokens from the rest and the caption; one caption in ten is left out."""
    training = Training(options.out)
    while training.step < options.steps:
        rng = random.Random(training.step)
        generator = torch.Generator().manual_seed(training.step)
        images, looks = draw_batch(drawings, BATCH, rng)
        _, ids = draw_captions(looks, rng)
        ids = ids.masked_fill(torch.rand(BATCH, 1, generator=generator) < 0.1, 0)
        with torch.no_grad():
            tokens, cond = tokenizer.encode(images), Cond({"text": text(ids)})
        is_clean = training.step < options.clean_steps
        seen = tokens if is_clean else with_strays(tokens, generator)
        x_tilde, mask = forward_mask(
            seen, draw_ratio("arccos", BATCH, generator), MASK_ID, generator
        )
        backbone = training.backbone
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            hidden = backbone.hidden(backbone.embed(x_tilde), cond)
            logits = backbone.head(hidden[mask.squeeze(-1)]).flatten(0, 1).float()
        loss = F.cross_entropy(logits, tokens[mask])
        training.learn(loss, options.steps)
        if training.step % 50 == 0:
            say(f"teacher {training.step}: cross-entropy {loss:.4f}")
        if training.step % 250 == 0 or training.step == options.steps:
            training.keep()


def say(line):
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def once(path, network, train):
    """The network that an earlier run left at this path, or else the one that is trained now."""
    if not path.exists():
        save_file(in_bytes(train().state_dict()), path)
    return fill_from(network, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path, default=Path(), help="folder of the npm packages")
    parser.add_argument("--tokenizer-steps", type=int, default=3000)
    parser.add_argument("--polish-steps", type=int, default=1500)
    parser.add_argument("--text-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=22_000)
    parser.add_argument("--clean-steps", type=int, default=5000, help="before mistakes are seen")
    parser.add_argument("--bf16", action="store_true", help="twice as fast on CPUs that have it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    drawings = drawings_of(options.packages, options.out / "drawings.safetensors")
    text = once(
        options.out / "emoji_text.safetensors",
        EmojiText(),
        lambda: train_text(options.text_steps),
    )
    tokenizer = once(
        options.out / "emoji_tokenizer.safetensors",
        EmojiTokenizer(),
        lambda: train_tokenizer(drawings, options.tokenizer_steps, options.out),
    )
    train_backbone(drawings, tokenizer, text, options)
    polished = options.out / "emoji_decoder.safetensors"
    once(polished, EmojiTokenizer(), lambda: polish(tokenizer, drawings, options.polish_steps))
    polished.replace(options.out / "emoji_tokenizer.safetensors")


if __name__ == "__main__":
    main()
