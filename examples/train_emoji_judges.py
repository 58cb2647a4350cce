"""Trains what looks at pictures of `emoji`: the reader behind its benchmark, and its rewards.

    python examples/train_emoji_judges.py --teacher runs/emoji-teacher --out runs/emoji-judges

--teacher is the --out of `train_emoji.py`. Stopped and started again with the same --out, it goes
on from its last checkpoint. The reader and the rewards are other networks, and see other draws.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from emoji_judges_data import (
    EVERY,
    Source,
    blended,
    damaged,
    noisy,
    other_looks,
    roughened,
    said_of,
    some,
)
from emoji_real_pictures import keep_real_tokens, keep_reference
from emoji_sampled import STEPS, sampled
from safetensors.torch import load_file
from train_emoji import Checkpoint, decaying_rate, save_half, say

from dimo_cli.metrics.emoji_reader import NOTHING, EmojiReader, answers
from dimo_cli.rewards.emoji import EmojiClip, EmojiJudge
from dimo_cli.teachers.emoji import world
from dimo_cli.teachers.emoji.tokenizer import EmojiTokenizer
from dimo_cli.teachers.small import fill_from

BATCH = 128
BROKEN = 0.5  # of a batch, more or less: the reader has to say which are
READER_SEED, CLIP_SEED, JUDGE_SEED = 1_000_000, 2_000_000, 3_000_000
WEIGHTS = (2, 1, 0.5, 0.5, 0.5, 0.2)  # of questions: many things look alike from both sides


class Training:
    """A network with its optimizer, which goes on where a checkpoint of it was left."""

    def __init__(self, network, path, steps, rate=3e-3):
        self.network = network.to(memory_format=torch.channels_last).train()
        self.steps, self.rate, self.first = steps, rate, 0
        self.optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
        self.checkpoint = Checkpoint(path)
        if state := self.checkpoint.read():
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.first = state["step"]

    def finished(self):
        """The network, as it is saved."""
        return self.network.to(memory_format=torch.contiguous_format).eval()

    def step(self, number, loss):
        """One step of AdamW, and a checkpoint when one is due."""
        self.optimizer.zero_grad()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = decaying_rate(number, self.steps, self.rate)
        self.optimizer.step()
        if self.checkpoint.is_due(number, self.steps):
            self.checkpoint.keep(
                network=self.network.state_dict(),
                optimizer=self.optimizer.state_dict(),
                step=number + 1,
            )


def train_reader(source, folder, steps, shelf=None):
    """It names what is on whole pictures, and says of all others that they show nothing."""
    torch.manual_seed(READER_SEED)
    training = Training(EmojiReader(), folder / "reader.pt", steps)
    for step in range(training.first, steps):
        images, truth, generator = source.batch(BATCH, step)
        same = other_looks(truth, source.drawings, READER_SEED + step)
        others = torch.where(some(BATCH, 0.6, generator), same, images.roll(1, 0))
        broken, whole = damaged(images, others, generator)
        is_broken = torch.rand(BATCH, generator=generator) < BROKEN
        images = torch.where(is_broken[:, None, None, None], broken, images)
        whole = torch.where(is_broken, whole, torch.ones(()))
        _, logits = training.network(in_channels_last(noisy(images, generator)))
        nothing = F.cross_entropy(logits[0], torch.full((BATCH,), NOTHING), reduction="none")
        loss = 2 * ((1 - whole) * nothing).mean()
        for at, (part, weight) in enumerate(zip(logits, WEIGHTS, strict=True)):
            own = F.cross_entropy(part, truth[:, at], reduction="none")
            loss = loss + weight * (whole * own).mean()
        training.step(step, loss)
        if step % 50 == 0:
            right = [
                (part.argmax(-1) == truth[:, at])[whole == 1].float().mean().item()
                for at, part in enumerate(logits)
            ]
            caught = (logits[0].argmax(-1) == NOTHING)[whole == 0].float().mean()
            told = " ".join(f"{share:.3f}" for share in right)
            say(f"reader {step}: loss {loss:.3f}, right {told}, of the broken {caught:.3f}")
    return training.finished()


def matched(network, source, step):
    """Each picture must find its caption among all of the batch and all near misses."""
    target = torch.arange(BATCH)
    images, truth, generator = source.batch(BATCH, step)
    true, false = said_of(truth, CLIP_SEED + step)
    seen = network.embed_pictures(in_channels_last(roughened(images, generator)))
    read = network.embed_text(torch.cat([true, false]))
    logits = network.logit_scale.exp().clamp(max=60) * seen @ read.T
    loss = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :BATCH].T, target)
    return loss, (logits[:, :BATCH].argmax(-1) == target).float().mean()


def train_clip(source, folder, steps, shelf):
    """On drawn pictures; then, for a fifth of the steps, on those of the teacher as well."""
    torch.manual_seed(CLIP_SEED)
    training = Training(EmojiClip(), folder / "clip.pt", steps, rate=1.5e-3)
    for step in range(training.first, steps):
        loss, found = matched(training.network, source, step)
        training.step(step, loss)
        if step % 50 == 0:
            say(f"clip {step}: loss {loss:.3f}, finds {found:.3f}")
    network, more = training.finished(), max(1, steps // 5)
    training = Training(network, folder / "clip-sampled.pt", more, rate=1e-3)
    for step in range(training.first, more):
        images, words, true = some_of(shelf, CLIP_SEED + step)
        loss, _ = matched(network, source, steps + step)
        read = network.embed_text(words).repeat_interleave(len(STEPS), 0)
        cosines = (network.embed_pictures(images) * read).sum(1).view(true.shape)
        order = out_of_order(network.logit_scale.exp() * cosines, true)
        training.step(step, loss + order)
        if step % 50 == 0:
            say(f"clip {steps + step}: loss {loss:.3f}, of the teacher's pictures {order:.3f}")
    return training.finished()


def some_of(shelf, seed, size=32):
    """Some captions that the teacher drew: four pictures of each, words, and what is true."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(shelf["words"]), (size,), generator=generator)
    images = shelf["pictures"][rows].flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
    return in_channels_last(noisy(images, generator)), shelf["words"][rows], shelf["true"][rows]


def out_of_order(scores, true):
    """How far true pictures [B, 4] of a caption are from scoring above those that are not."""
    ahead = F.softplus(scores[:, None, :] - scores[:, :, None])
    pairs = true[:, :, None] & ~true[:, None, :]
    return (ahead * pairs).sum() / pairs.sum().clamp(min=1)


class Pupil(torch.nn.Module):
    """The judge, and what it has to tell of a picture beside its verdict while it learns."""

    def __init__(self):
        super().__init__()
        self.judge = EmojiJudge()
        width = self.judge.picture[-1].first.in_channels
        self.near = torch.nn.Conv2d(width, width, 4, stride=2, padding=1)
        counts = [len(known) for known in answers().values()]
        self.told = torch.nn.ModuleList(torch.nn.Linear(width * 16, count) for count in counts)

    def seen(self, features, truth):
        """How far it is from knowing what is on whole pictures."""
        flat = F.silu(self.near(F.silu(features))).flatten(1)
        return sum(
            weight * F.cross_entropy(head(flat), truth[:, at])
            for at, (head, weight) in enumerate(zip(self.told, WEIGHTS, strict=True))
        )


def judged(pupil, source, step, size=48):
    """Whole pictures with words that are true, against near misses, strange words, and damage."""
    judge = pupil.judge
    images, truth, generator = source.batch(size, step)
    true, false = said_of(truth, JUDGE_SEED + step)
    share = 0.6 * torch.rand(size, generator=generator)
    broken = blended(images, images.roll(1, 0), share, generator)
    pictures = torch.cat([noisy(images, generator), noisy(broken, generator)])
    whole, broken = judge.look(in_channels_last(pictures)).split(size)
    own, miss = judge.read(true), judge.read(false)
    features = torch.cat([whole, whole, whole, broken, broken])
    logits = judge.judge(features, torch.cat([own, miss, own.roll(1, 0), own, miss]))
    nothing = torch.zeros(size)
    worth = torch.cat([nothing + 1, nothing, nothing, (1 - 3 * share).clamp(min=0), nothing])
    good, *bad = logits.split(size)
    order = sum(F.softplus(other - good).mean() for other in (bad[0], bad[1].roll(-1, 0), bad[2]))
    ahead = [(good > other).float().mean().item() for other in bad]
    return verdict(logits, worth) + 0.2 * order + 0.1 * pupil.seen(whole, truth), ahead


def judged_sampled(network, shelf, step):
    """Pictures that the teacher drew: what is true is worth more than what is not."""
    images, words, true = some_of(shelf, JUDGE_SEED + step)
    read = network.read(words).repeat_interleave(len(STEPS), 0)
    logits = network(images, read).view(true.shape)
    return verdict(logits, true.float()) + 0.3 * out_of_order(logits, true)


def verdict(logits, worth):
    """Cross-entropy of verdicts, which are never quite certain."""
    return F.binary_cross_entropy_with_logits(logits, 0.01 + 0.98 * worth)


def train_judge(source, folder, steps, shelf):
    """On drawn pictures; then, for a fifth of the steps, on those of the teacher as well."""
    torch.manual_seed(JUDGE_SEED)
    training = Training(Pupil(), folder / "judge.pt", steps, rate=2e-3)
    for step in range(training.first, steps):
        loss, ahead = judged(training.network, source, step)
        training.step(step, loss)
        if step % 50 == 0:
            told = " ".join(f"{share:.3f}" for share in ahead)
            say(f"judge {step}: loss {loss:.3f}, above near, strange, broken, both: {told}")
    pupil, more = training.finished(), max(1, steps // 5)
    training = Training(pupil, folder / "judge-sampled.pt", more, rate=1e-3)
    for step in range(training.first, more):
        loss, _ = judged(pupil, source, steps + step)
        teacher = judged_sampled(pupil.judge, shelf, step)
        training.step(step, loss + teacher)
        if step % 50 == 0:
            say(f"judge {steps + step}: loss {loss:.3f}, of the teacher's pictures {teacher:.3f}")
    return training.finished().judge


def in_channels_last(images):
    """Pictures as convolutions on a CPU read them fastest."""
    return images.contiguous(memory_format=torch.channels_last)


TRAINERS = {
    "emoji_features": (train_reader, READER_SEED, EVERY, 5000),
    "emoji_clip": (train_clip, CLIP_SEED, world.trained_on(), 3000),
    "emoji_preference": (train_judge, JUDGE_SEED, world.trained_on(), 5000),
}


def shelf_of(options, drawings, seed):
    """What the teacher drew for some captions, as tensors."""
    path = options.out / f"sampled-{seed}.npz"
    found = sampled(options.teacher, drawings, options.captions, seed, path)
    return {name: torch.from_numpy(found[name]) for name in ("words", "pictures", "true")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_emoji.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=TRAINERS, nargs="+", default=list(TRAINERS))
    parser.add_argument("--steps", type=int, help="of each, instead of its own")
    parser.add_argument("--painted", type=int, default=4096, help="pictures through the tokenizer")
    parser.add_argument("--captions", type=int, default=800, help="drawn by the teacher")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    drawings = {
        size: tensor.numpy()
        for size, tensor in load_file(options.teacher / "drawings.safetensors").items()
    }
    tokenizer = fill_from(EmojiTokenizer(), options.teacher / "emoji_tokenizer.safetensors")
    for name in options.only:
        train, seed, pairs, steps = TRAINERS[name]
        source = Source(drawings, tokenizer, seed, options.out, pairs, options.painted)
        shelf = None if train is train_reader else shelf_of(options, drawings, seed)
        network = train(source, options.out, options.steps or steps, shelf)
        save_half(network.state_dict(), options.out / f"{name}.safetensors")
    keep_reference(drawings, options.out)
    keep_real_tokens(drawings, tokenizer, options.out)


if __name__ == "__main__":
    main()
