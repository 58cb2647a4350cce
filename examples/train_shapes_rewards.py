"""Trains the two embedded rewards of `shapes` (an hour on 2 CPU cores).

    python examples/train_shapes_rewards.py --teacher FOLDER --out FOLDER

`shapes_clip` sees rendered pictures only. `shapes_preference` also learns, as preference models do,
from pictures that generators drew and that were judged: by the rules of the verifier. Half of them
are the teacher's in few steps, half the embedded student's, decoded softly as TTEO decodes. It is
then hardened: TTEO climbs it, and it learns which of the pictures that it was led to are false.
"""

import argparse
import random
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from train_shapes import as_images, decaying_rate

from dimo_cli.engine.tteo import optimize_embeddings, render, start_embeddings
from dimo_cli.metrics.shapes import is_true
from dimo_cli.rewards.shapes import CARDS, ClipReward, PreferenceReward, ShapesClip, ShapesJudge
from dimo_cli.sampling.samplers import sample_images, to_pixels
from dimo_cli.sampling.tteo import settled
from dimo_cli.specs.sample import SamplerSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.students.published import open_student
from dimo_cli.students.target import Target
from dimo_cli.teachers.shapes import fill_from, load_from, world
from dimo_cli.teachers.shapes.network import ShapesText, words_to_ids
from dimo_cli.teachers.shapes.tokenizer import ShapesTokenizer

FEW = (1, 1, 2, 3, 4)  # steps of the teacher, so few that many of its pictures are wrong
AT_ONCE = 250  # pictures of the student
CLIP, JUDGE = "shapes_clip.safetensors", "shapes_preference.safetensors"
FIRST_JUDGE = "first_judge.safetensors"  # before it is hardened


def triples(count, seed):
    """Pictures, their captions, and captions that are false of them by one thing."""
    rng, pictures, true, false = random.Random(seed), [], [], []
    for _ in range(count):
        scene = world.random_scene(rng)
        pictures.append(torch.from_numpy(world.render(*world.compose(scene, rng))))
        true.append(world.caption(scene, rng))
        false.append(world.caption(world.near_miss(scene, rng), rng))
    return torch.stack(pictures), words_to_ids(true), words_to_ids(false)


def judged(draw, count, seed):
    """Drawn pictures, each with its caption and with a near miss, and which of them are true."""
    rng = random.Random(seed)
    scenes = [world.random_scene(rng) for _ in range(count)]
    captions = [world.caption(scene, rng) for scene in scenes]
    drawn = draw(captions, seed)
    near = [world.near_miss(scene, rng) for scene in scenes]
    said = words_to_ids(captions + [world.caption(scene, rng) for scene in near])
    verdicts = []
    for name, pictures in drawn.items():
        pairs = zip(scenes + near, [*pictures, *pictures], strict=True)
        verdicts += [is_true(*pair) for pair in pairs]
        told = sum(verdicts[-2 * count : -count]) / count
        print(f"{name}: {told:.1%} of {count} are true", flush=True)
    shown = [torch.from_numpy(pictures).repeat(2, 1, 1, 1) for pictures in drawn.values()]
    return torch.cat(shown), said.repeat(len(drawn), 1), torch.tensor(verdicts)


def by_generators(folder, captions, seed):
    """Half of the pictures by the teacher, half by the student."""
    half = len(captions) // 2
    pictures = [by_teacher(folder, captions[:half], seed), by_student(captions[half:], seed)]
    return {"drawn": np.concatenate(pictures)}


def by_teacher(folder, captions, seed):
    """Pictures of the teacher in few steps."""
    teacher = load_from(folder)
    drawn = np.empty((len(captions), world.SIDE, world.SIDE, 3), np.uint8)
    for number, steps in enumerate(FEW):
        every = slice(number, None, len(FEW))
        spec = SamplerSpec(teacher=True, steps=steps, seed=seed + number)
        drawn[every], _ = sample_images(Target(teacher), captions[every], spec)
    return drawn


def by_student(captions, seed):
    """Soft pictures of the student that ships in the package."""
    student = open_student("shapes")
    return np.concatenate(
        [
            to_pixels(render(student.backbone, student.teacher.tokenizer, cond, start, TteoSpec()))
            for cond, start in starts(student, captions, seed)
        ]
    )


def by_climbing(rewards, captions, seed):
    """The student's soft pictures before and after TTEO: what the judge falls for is among them."""
    student = open_student("shapes")
    spec = settled(student, TteoSpec())
    found = {"before TTEO": [], "after TTEO": []}
    for cond, start in starts(student, captions, seed):
        texts = [reward.prepare(cond.texts) for reward in rewards]

        def score(images, texts=texts):
            return sum(reward(images, text) for reward, text in zip(rewards, texts, strict=True))

        for pictures, updates in zip(found.values(), (0, spec.iterations), strict=True):
            budget = spec.model_copy(update={"iterations": updates})
            outcome = optimize_embeddings(
                student.backbone, student.teacher.tokenizer, cond, start, score, budget
            )
            pictures.append(to_pixels(outcome.images))
    return {name: np.concatenate(pictures) for name, pictures in found.items()}


def starts(student, captions, seed):
    """Conditions of some captions at a time, and what the student starts from."""
    teacher, generator = student.teacher, torch.Generator().manual_seed(seed)
    for first in range(0, len(captions), AT_ONCE):
        cond = teacher.conditioner.prompts(captions[first : first + AT_ONCE])
        yield (
            cond,
            start_embeddings(
                student.backbone,
                teacher.space,
                teacher.tokenizer,
                student.manifest.init,
                len(cond),
                generator,
            ),
        )


class Roughen:
    """Pictures as students make them: through the tokenizer, sometimes soft, sometimes noisy."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, pictures):
        images = as_images(pictures)
        vectors = self.tokenizer.codebook(self.tokenizer.encode(images).squeeze(-1))
        softness = 0.3 * torch.rand(len(images), 1, 1)
        images = self.tokenizer.paint(vectors + softness * torch.randn_like(vectors)).clamp(-1, 1)
        return images + 0.05 * torch.randn_like(images)

    @torch.no_grad()
    def broken(self, pictures):
        """Pictures with patches of other pictures in them."""
        patches = self.tokenizer.encode(as_images(pictures))
        share = 0.02 + 0.3 * torch.rand(len(patches), 1, 1)
        swapped = torch.where(torch.rand(patches.shape) < share, patches.roll(1, 0), patches)
        return self.tokenizer.decode(swapped).clamp(-1, 1)


def train_clip(data, roughen, steps):
    """Each picture must find its caption among all captions of the batch and all near misses."""
    pictures, true, false = data
    network = ShapesClip()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in range(steps):
        rows = torch.randint(len(pictures), (96,))
        seen = network.embed_pictures(roughen(pictures[rows]))
        read = network.embed_text(torch.cat([true[rows], false[rows]]))
        logits = network.logit_scale.exp().clamp(max=60) * seen @ read.T
        target = torch.arange(len(rows))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(rows)].T, target)
        take_step(optimizer, loss, step, steps)
        if step % 100 == 0:
            hits = (logits[target, target] > logits[target, target + len(rows)]).float().mean()
            print(f"clip {step}: loss {loss:.3f}, prefers the truth {hits:.3f}", flush=True)
    return network


def train_judge(data, roughen, steps, reader, drawn, network, rate):
    """Right pictures against near misses and broken pictures, and drawn ones as judged."""
    pictures, true, false = data
    generated, said, verdicts = drawn
    with torch.no_grad():
        true, false, said = (
            torch.cat([reader(part) for part in ids.split(500)]) for ids in (true, false, said)
        )
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    for step in range(steps):
        rows = torch.randint(len(pictures), (24,))
        picked = torch.randint(len(generated), (72,))
        images = torch.cat(
            [
                roughen(pictures[rows]),
                roughen(pictures[rows]),
                roughen.broken(pictures[rows]),
                as_images(generated[picked]) + 0.05 * torch.randn(72, 3, world.SIDE, world.SIDE),
            ]
        )
        # Captions of other pictures are easy to tell and teach to read; near misses come beside.
        is_near = torch.rand(24, 1, 1) < 0.5
        wrong = torch.where(is_near, false[rows], true[rows].roll(1, 0))
        states = torch.cat([true[rows], wrong, true[rows], said[picked]])
        right = torch.cat([torch.ones(24), torch.zeros(48), verdicts[picked].float()])
        logits = network(images, states)
        loss = F.binary_cross_entropy_with_logits(logits, 0.02 + 0.96 * right)
        take_step(optimizer, loss, step, steps, rate)
        if step % 100 == 0:
            hits = ((logits > 0) == (right > 0.5)).float()
            told = [round(part.mean().item(), 2) for part in hits.split((24, 24, 24, 72))]
            print(f"judge {step}: loss {loss:.3f}, right on {told}", flush=True)
    return network


def take_step(optimizer, loss, step, steps, rate=1e-3):
    """One step of AdamW at the rate of the moment, which decays from `rate`."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = decaying_rate(step, steps, rate)
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_shapes.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--drawn", type=int, default=30_000, help="judged pictures")
    parser.add_argument("--climbed", type=int, default=8000, help="captions that TTEO climbs for")
    parser.add_argument("--clip-steps", type=int, default=1500)
    parser.add_argument("--judge-steps", type=int, default=3000)
    parser.add_argument("--harden-steps", type=int, default=1500)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    roughen = Roughen(
        fill_from(ShapesTokenizer(), options.teacher / "shapes_tokenizer.safetensors")
    )
    reader = fill_from(ShapesText(), options.teacher / "shapes_text.safetensors")

    def clip():
        return train_clip(triples(options.pictures, seed=100), roughen, options.clip_steps)

    def judge(network, rate, steps, drawn):
        data = triples(options.pictures, seed=101)
        return train_judge(data, roughen, steps, reader, drawn, network, rate)

    def first_judge():
        drawn = judged(partial(by_generators, options.teacher), options.drawn, seed=200)
        return judge(ShapesJudge(), 1e-3, options.judge_steps, drawn)

    def hardened_judge():
        network = fill_from(ShapesJudge(), options.out / FIRST_JUDGE)
        rewards = [
            ClipReward(CARDS["shapes_clip"], fill_from(ShapesClip(), options.out / CLIP)),
            PreferenceReward(CARDS["shapes_preference"], network, reader),
        ]
        drawn = judged(partial(by_climbing, rewards), options.climbed, seed=900)
        network = network.requires_grad_(True)
        return judge(network, 4e-4, options.harden_steps, drawn)

    jobs = {CLIP: clip, FIRST_JUDGE: first_judge, JUDGE: hardened_judge}
    for number, (name, train) in enumerate(jobs.items()):
        path = options.out / name
        if not path.exists():
            torch.manual_seed(10 + number)
            network = train()
            save_file({key: tensor.half() for key, tensor in network.state_dict().items()}, path)


if __name__ == "__main__":
    main()
