"""Trains what looks at pictures of `emoji`: the reader behind its benchmark, and its rewards.

    python examples/train_emoji_judges.py --teacher runs/emoji-teacher --out runs/emoji-judges

--teacher is the --out of `train_emoji.py`. Stopped and started again with the same --out, it goes
on from its last checkpoint. The reader and the rewards are other networks, and see other draws.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from emoji_judges_data import Source, mixed, roughened
from safetensors.torch import load_file
from train_emoji import Checkpoint, decaying_rate, save_half, say

from dimo_cli.metrics.emoji_reader import EmojiReader
from dimo_cli.teachers.emoji.tokenizer import EmojiTokenizer
from dimo_cli.teachers.small import fill_from

BATCH = 128
MIXED = 0.15  # of a batch are pictures of two things, and the reader has to say so
READER_SEED = 1_000_000
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


def train_reader(source, folder, steps):
    """It names what is on pictures, and spreads its belief where two things are on one."""
    torch.manual_seed(READER_SEED)
    training = Training(EmojiReader(), folder / "reader.pt", steps)
    for step in range(training.first, steps):
        images, truth, generator = source.batch(BATCH, step)
        both, share = mixed(images, generator)
        is_mixed = torch.rand(BATCH, generator=generator) < MIXED
        images = torch.where(is_mixed[:, None, None, None], both, images)
        images = roughened(images, generator)
        _, logits = training.network(images.contiguous(memory_format=torch.channels_last))
        other = torch.where(is_mixed, share, torch.zeros(()))
        loss = sum(
            weight * told_apart(part, truth[:, at], other)
            for at, (part, weight) in enumerate(zip(logits, WEIGHTS, strict=True))
        )
        training.step(step, loss)
        if step % 50 == 0:
            right = [
                (part.argmax(-1) == truth[:, at])[~is_mixed].float().mean().item()
                for at, part in enumerate(logits)
            ]
            say(f"reader {step}: loss {loss:.3f}, right " + " ".join(f"{r:.3f}" for r in right))
    return training.network.to(memory_format=torch.contiguous_format)


def told_apart(logits, truth, other):
    """Cross-entropy to the truth, of which the share `other` [B] is that of the row before."""
    own = F.cross_entropy(logits, truth, reduction="none")
    strange = F.cross_entropy(logits, truth.roll(1), reduction="none")
    return ((1 - other) * own + other * strange).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of train_emoji.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reader-steps", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    drawings = {
        size: tensor.numpy()
        for size, tensor in load_file(options.teacher / "drawings.safetensors").items()
    }
    tokenizer = fill_from(EmojiTokenizer(), options.teacher / "emoji_tokenizer.safetensors")
    source = Source(drawings, tokenizer, READER_SEED, options.out)
    reader = train_reader(source, options.out, options.reader_steps)
    save_half(reader.state_dict(), options.out / "emoji_features.safetensors")


if __name__ == "__main__":
    main()
