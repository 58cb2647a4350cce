"""Train everything that ships for `digits`: data, feature network, reference and teacher.

    python examples/train_digits.py --out dimo_cli/teachers/builtin     # 15 minutes on 2 cores

Needs scikit-learn, which carries the UCI digits (Alpaydin and Kaynak, CC BY 4.0).
"""

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from dimo_cli.engine.masking import draw_ratio, forward_mask
from dimo_cli.metrics.features import DigitsFeatures
from dimo_cli.metrics.frechet import RunningGaussian
from dimo_cli.teachers.digits import MASK_ID, NULL_LABEL, DigitsTokenizer, build_backbone
from dimo_cli.teachers.protocol import Cond


def train_features(tokens, labels, generator, steps=1500):
    """A classifier of slightly noisy digits: real ones alone would make its features brittle."""
    network, decode = DigitsFeatures(), DigitsTokenizer().decode
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(tokens), (128,), generator=generator)
        images = decode(tokens[rows])
        noisy = images + 0.15 * torch.randn(images.shape, generator=generator)
        loss = F.cross_entropy(network(noisy)[1], labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    accuracy = (network(decode(tokens))[1].argmax(-1) == labels).float().mean()
    print(f"feature network: accuracy {accuracy:.4f}")
    return network.eval()


def train_teacher(tokens, labels, generator, steps, batch=128):
    """Eq. 1: cross-entropy at masked positions, arccos masking, one label in ten dropped."""
    backbone, ema = build_backbone(), build_backbone()
    ema.load_state_dict(backbone.state_dict())
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    started = time.time()
    for step in range(steps):
        rows = torch.randint(len(tokens), (batch,), generator=generator)
        drop = torch.rand(batch, generator=generator) < 0.1
        cond = Cond({"label": labels[rows].masked_fill(drop, NULL_LABEL)})
        masked, mask = forward_mask(
            tokens[rows], draw_ratio("arccos", batch, generator), MASK_ID, generator
        )
        hidden = backbone.hidden(backbone.embed(masked), cond)
        loss = F.cross_entropy(backbone.head(hidden[mask[..., 0]])[:, 0], tokens[rows][mask])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        for average, weight in zip(ema.parameters(), backbone.parameters(), strict=True):
            average.data.lerp_(weight.data, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 500 == 499:
            print(
                f"teacher: step {step + 1}, loss {loss:.4f}, {time.time() - started:.0f} s",
                flush=True,
            )
    return ema


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=5000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    digits = load_digits()
    tokens = torch.tensor(digits.images, dtype=torch.long).flatten(1)[..., None]
    labels = torch.tensor(digits.target, dtype=torch.long)
    save_file(
        {"tokens": tokens.byte().squeeze(-1).contiguous(), "labels": labels.byte()},
        args.out / "digits_data.safetensors",
    )
    features = train_features(tokens, labels, generator)
    save_file(features.state_dict(), args.out / "digits_features.safetensors")
    running = RunningGaussian(features.dimensions)
    running.add(features(DigitsTokenizer().decode(tokens))[0])
    real = running.gaussian()
    reference = {
        "mean": real.mean,
        "covariance": real.covariance,
        "count": torch.tensor(real.count),
    }
    save_file(reference, args.out / "digits_reference.safetensors")
    teacher = train_teacher(tokens, labels, generator, args.steps)
    weights = {name: tensor.half().contiguous() for name, tensor in teacher.state_dict().items()}
    save_file(weights, args.out / "digits.safetensors")
