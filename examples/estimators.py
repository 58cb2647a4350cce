"""Table 4 of Soft-Di[M]O as numbers: bias and variance of three gradient estimators.

    python examples/estimators.py                                   # about 10 seconds on one core

The case is so small that the exact gradient of E[f(tokens)] comes from trying all combinations of
tokens. Soft embeddings have no variance; their error of the value is below the bound of Lemma G.3.
Straight-through trades bias for variance as tau falls. Bias is left at tau -> 0 (Lemma G.4), but
none for a quadratic f: its mean slope between two tokens is the mean of both slopes there.
"""

import itertools

import torch
import typer

from dimo_cli.engine.fidelity import embedding_covariance_trace
from dimo_cli.engine.relax import estimate

SLOTS, VOCAB, WIDTH = 3, 4, 2
ESTIMATORS = [("soft", 1.0), ("gumbel_st", 1.0), ("gumbel_st", 0.2), ("reinforce", 1.0)]
HEADER = "| f | top-1 | estimator, tau | value error | G.3 bound | gradient | bias | variance |"


def make_case(seed):
    """Logits [L, V], an embedding table [V, D], and objectives with the L of their smoothness."""
    g, size = torch.Generator().manual_seed(seed), SLOTS * WIDTH
    logits, table = torch.randn(SLOTS, VOCAB, generator=g), torch.randn(VOCAB, WIDTH, generator=g)
    matrix, slope = torch.randn(size, size, generator=g), torch.randn(size, generator=g)
    waves = torch.randn(8, size, generator=g) / 2

    def quadratic(weights):
        x = (weights @ table.to(weights)).flatten(1)
        return 0.5 * ((x @ (matrix + matrix.T).to(x)) * x).sum(-1) + x @ slope.to(x)

    def wavy(weights):
        return torch.cos((weights @ table.to(weights)).flatten(1) @ waves.T.to(weights)).sum(-1)

    most = [torch.linalg.matrix_norm(m, 2) for m in (matrix + matrix.T, waves.T @ waves)]
    return logits, table, (("quadratic", quadratic, most[0]), ("waves", wavy, most[1]))


def enumerate_all(logits, objective):
    """E[f], its gradient, and the limit of straight-through for tau -> 0, all exact."""
    logits = logits.double().requires_grad_()
    every = torch.tensor(list(itertools.product(range(VOCAB), repeat=SLOTS)))
    vertices = torch.nn.functional.one_hot(every, VOCAB).double().requires_grad_()
    p, values = logits.softmax(-1), objective(vertices)
    chance = (vertices.detach() * p).sum(-1).prod(-1)
    value = (chance * values).sum()
    (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
    (slopes,) = torch.autograd.grad(values.sum(), vertices)
    given = torch.einsum("nli,n,nlk->lik", vertices, chance, slopes) / p[..., None]
    own = given.diagonal(dim1=1, dim2=2)
    # As tau -> 0 only ties between the two best tokens count, where either is drawn half the time.
    steps = (own[..., None] - given + given.mT - own[:, None]) / 2
    return value.detach(), gradient, (p * (p[:, None] * steps).sum(-1)).detach()


def main(draws: int = 200_000, seed: int = 0) -> None:
    """Print the table; the variance is that of a single draw."""
    logits, table, objectives = make_case(seed)
    print(HEADER, "|---|---|---|---|---|---|---|---|", sep="\n")
    for (name, f, smoothness), sharpness in itertools.product(objectives, (0.5, 2.0, 6.0)):
        z, g = sharpness * logits, torch.Generator().manual_seed(seed)
        value, gradient, limit = enumerate_all(z, f)
        bound = smoothness / 2 * embedding_covariance_trace(z.softmax(-1), table).sum()
        row, size = f"| {name} | {z.softmax(-1).amax(-1).mean():.2f} |", gradient.norm()
        for kind, tau in ESTIMATORS:
            many = z.expand(1 if kind == "soft" else draws, -1, -1).clone().requires_grad_()
            loss, values = estimate(kind, many, f, g, tau)
            (each,) = torch.autograd.grad(loss, many)
            bias, variance = (each.mean(0) - gradient).norm(), each.var(0, correction=0).sum()
            numbers = (abs(values.mean() - value), bound, size, bias, variance)
            print(row, kind, tau, *(f"| {number:.3f}" for number in numbers), "|")
        print(row, f"gumbel_st to 0 | | | {size:.3f} | {(limit - gradient).norm():.3f} | inf |")


if __name__ == "__main__":
    typer.run(main)
