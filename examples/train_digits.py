"""Train everything that ships for `digits`: data, feature network, reference and teacher.

    python examples/train_digits.py --out digits     # about ten minutes on 2 cores

Needs scikit-learn, which carries the UCI digits (Alpaydin and Kaynak, CC BY 4.0). The files of the
package were made by this script, seed 0, 5,000 steps; copy yours into dimo_cli/teachers/builtin.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import OneCycleLR

from dimo_cli.engine.masking import draw_ratio, forward_mask
from dimo_cli.engine.optimizer import Ema
from dimo_cli.engine.schedules import ema_decay
from dimo_cli.metrics.features import DigitsFeatures
from dimo_cli.metrics.frechet import RunningGaussian
from dimo_cli.teachers.digits import CLASSES, MASK_ID, DigitsTokenizer, build_backbone
from dimo_cli.teachers.protocol import Cond


def train(network, loss_of, steps, rate, decay, clip=float("inf"), after=lambda step: None):
    """AdamW with a one-cycle rate on whatever loss is given."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    schedule = OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        loss = loss_of(torch.randint(1797, (128,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        schedule.step()
        after(step)
        if step % 500 == 499:
            print(f"{type(network).__name__}: step {step + 1}, loss {loss:.4f}", flush=True)


def classification(rows):
    """Slightly noisy digits: real ones alone would make the features brittle."""
    images = DigitsTokenizer().decode(tokens[rows])
    noisy = images + 0.15 * torch.randn(images.shape, generator=generator)
    return F.cross_entropy(features(noisy)[1], labels[rows], label_smoothing=0.05)


def masked_prediction(rows):
    """Eq. 1: cross-entropy at masked positions, arccos masking, one label in ten dropped."""
    drop = torch.rand(len(rows), generator=generator) < 0.1
    cond = Cond({"label": labels[rows].masked_fill(drop, CLASSES)})
    ratio = draw_ratio("arccos", len(rows), generator)
    masked, mask = forward_mask(tokens[rows], ratio, MASK_ID, generator)
    hidden = teacher.hidden(teacher.embed(masked), cond)
    return F.cross_entropy(teacher.head(hidden[mask[..., 0]])[:, 0], tokens[rows][mask])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", type=Path, required=True)
parser.add_argument("--steps", type=int, default=5000)
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
digits = load_digits()
tokens = torch.tensor(digits.images, dtype=torch.long).flatten(1)[..., None]
labels = torch.tensor(digits.target, dtype=torch.long)
data = {"tokens": tokens.byte().squeeze(-1).contiguous(), "labels": labels.byte()}
save_file(data, args.out / "digits_data.safetensors")

features = DigitsFeatures()
train(features, classification, min(1500, args.steps), 4e-3, 0.05)
save_file(features.state_dict(), args.out / "digits_features.safetensors")
running = RunningGaussian(features.dimensions)
running.add(features(DigitsTokenizer().decode(tokens))[0])
real = running.gaussian()
reference = {"mean": real.mean, "covariance": real.covariance, "count": torch.tensor(real.count)}
save_file(reference, args.out / "digits_reference.safetensors")

teacher = build_backbone()
average = Ema(build_backbone(), teacher)
average.network.load_state_dict(teacher.state_dict())
move = lambda step: average.update(ema_decay(step, 0.998))  # noqa: E731
train(teacher, masked_prediction, args.steps, 2e-3, 0.01, clip=1.0, after=move)
weights = {name: tensor.half() for name, tensor in average.network.state_dict().items()}
save_file(weights, args.out / "digits.safetensors")
