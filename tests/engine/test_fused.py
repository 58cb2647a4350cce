"""The losses' row-wise functions: each is one graph for any number of rows, and equals itself."""

import pytest
import torch

from dimo_cli.engine import auxiliary, field, fused, one_step
from dimo_cli.engine.divergence import build_divergence
from dimo_cli.specs import divergences as specs

DIVERGENCES = [
    specs.ForwardKL(),
    specs.Jeffreys(beta=0.3),
    specs.JensenShannon(),
    specs.SquaredHellinger(),
    specs.AlphaDivergence(alpha=0.5),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A compiler that counts its graphs and runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def numbers(rows, dtype=torch.bfloat16):
    torch.manual_seed(rows)
    return torch.randn(rows, 1, 33).to(dtype)


def field_inputs(rows, divergence, dtype=torch.bfloat16):
    torch.manual_seed(rows + 100)
    scale, weight = torch.full((rows, 1, 1), 3.0), torch.rand(rows, 1, 1)
    logits = [numbers(rows, dtype), numbers(rows + 1, dtype)[:rows], numbers(rows + 2, dtype)]
    return *logits[:2], scale, logits[2][:rows], weight, divergence, (1.0, 0.9), True


@pytest.mark.parametrize("spec", DIVERGENCES, ids=lambda spec: spec.kind)
def test_the_field_of_every_divergence_is_one_graph_for_any_number_of_rows(spec):
    plain, compiler, divergence = field._field.__wrapped__, Counting(), build_divergence(spec)
    compiled = torch.compile(plain, backend=compiler, fullgraph=True)
    for rows in (8, 5, 30):
        inputs = field_inputs(rows, divergence)
        for tensor in inputs[:5]:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        gradient, value = compiled(*inputs)
        expected, expected_value = plain(*field_inputs(rows, divergence))
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, expected)
        torch.testing.assert_close(value, expected_value)
    assert compiler.graphs == 1


def test_so_are_the_cross_entropy_and_the_draw():
    for plain, inputs_of in (
        (
            auxiliary.smoothed_cross_entropy.__wrapped__,
            lambda rows: (numbers(rows)[:, 0], torch.arange(rows) - 1, 0.1, 0.5),
        ),
        (
            one_step._gumbel_max.__wrapped__,
            lambda rows: (numbers(rows, torch.float32).abs(), numbers(rows)),
        ),
    ):
        compiler = Counting()
        compiled = torch.compile(plain, backend=compiler, fullgraph=True)
        for rows in (8, 5, 30):
            inputs = inputs_of(rows)
            for tensor in inputs[:2]:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
            torch.testing.assert_close(compiled(*inputs), plain(*inputs_of(rows)))
        assert compiler.graphs == 1


def test_a_gradient_at_bf16_logits_is_that_of_float32_rounded():
    divergence = build_divergence(specs.ForwardKL())
    rounded, _ = field._field(*field_inputs(9, divergence))
    exact, _ = field._field(
        *[
            part.float() if isinstance(part, torch.Tensor) else part
            for part in field_inputs(9, divergence)
        ]
    )
    assert torch.equal(rounded, exact.bfloat16())


def test_a_sure_target_keeps_its_gradient_in_bf16():
    """1 - p is much smaller than what rounding does to p."""
    logits = torch.tensor([[9.0, 0.0, 0.0]], dtype=torch.bfloat16)
    *_, gradient = auxiliary.smoothed_cross_entropy(logits, torch.tensor([0]))
    expected = logits.double().softmax(-1)[0, 0] - 1
    assert gradient[0, 0].item() == pytest.approx(expected.item(), rel=0.01)


def test_without_a_compiler_the_function_runs_as_it_is_and_says_why(monkeypatch):
    class OnCard(torch.Tensor):
        device = torch.device("cuda")

    def no_compiler(function):
        def fail(*args):
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(fused, "unavailable", None)
    monkeypatch.setattr(fused, "untold", [])
    monkeypatch.setattr(torch, "compile", no_compiler)
    double = fused.fused(lambda tensor: tensor * 2)
    tensor = torch.ones(3).as_subclass(OnCard)
    for _ in range(2):
        assert double(tensor).sum() == 6
    (told,) = fused.untold
    assert "RuntimeError: no compiler here" in told
