"""di4c against the numbers of its authors' code, in closed forms, and as a run."""

import contextlib

import pytest
import torch

from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.objective import Supplies
from dimo_cli.engine.objectives.di4c import (
    Weights,
    chosen,
    control_variate,
    latent_rows,
    mixture,
    to_each,
    to_mixture,
    towards_tokens,
)
from dimo_cli.engine.pairs import PairStore
from dimo_cli.errors import SpecError
from dimo_cli.specs.objectives import Di4cSpec
from dimo_cli.teachers.plans import SCHEDULES
from tests.conftest import small_spec
from tests.helpers.tiny import tiny_teacher

SPEC = Di4cSpec(samples=4)


@pytest.fixture
def io(golden):
    found = golden("objectives/di4c.safetensors")
    return {**found, "weights": Weights.at(found["r"], SPEC)}


def by_position(log_p):
    """[B, N, D, V] as [B D, N, 1, V]."""
    return log_p.transpose(1, 2).flatten(0, 1)[:, :, None]


def of_tokens(log_p, tokens):
    """log p [B, N, D] of tokens [B, D]."""
    index = tokens[:, None, :, None].expand(-1, log_p.shape[1], -1, 1)
    return log_p.gather(-1, index).squeeze(-1)


def student_of(io):
    return io["student_logits"].log_softmax(-1)


def all_tokens(io):
    """The image and the student's own [B, 1 + N, D]."""
    return torch.cat([io["x_0"][:, None], io["x_0_consistency"]], 1)


def test_images_are_masked_and_the_teacher_goes_on_as_in_the_authors_code(io):
    arccos, r = SCHEDULES["arccos"], io["r"]
    masked = io["mask_uniform"].flatten(1) < arccos(r)[:, None]
    assert torch.equal(masked, io["mask"])
    phi = io["teacher_logits"].log_softmax(-1)[:, None].expand(-1, 4, -1, -1)
    sure = phi.gather(-1, io["u_tokens"][..., None]).squeeze(-1)
    sure = sure + SPEC.choice_noise * (1 - r * 8 / 7)[:, None, None] * io["u_gumbel"]
    left = torch.floor(arccos((r + SPEC.delta).clamp(max=1)) * 9).long()
    revealed = chosen(sure, masked, left)
    found = torch.where(revealed, io["u_tokens"], io["x_t"][:, None])
    assert torch.equal(found, io["x_u"])


def test_the_control_variate_is_that_of_the_authors_code(io):
    log_p = student_of(io)
    for number in range(4):
        tokens = io["cv.x"][:, number]
        value, _ = control_variate(of_tokens(log_p, tokens))
        torch.testing.assert_close(value, io["cv.value"][:, number], atol=1e-5, rtol=1e-5)
        apart = of_tokens(mixture(log_p)[:, None], tokens).squeeze(1).sum(-1)
        together = io["cv.log_mixture"][:, number]
        torch.testing.assert_close(apart + value, together, atol=1e-5, rtol=1e-5)


def kl_terms(io):
    """Gradients [B, N, D, V] and values [B] of the three divergences."""
    log_p, phi = by_position(student_of(io)), io["teacher_logits"].log_softmax(-1)
    later = mixture(io["consistency_logits"].log_softmax(-1))
    found = {}
    for name, kl, target in (
        ("data", to_mixture, phi),
        ("distil", to_each, phi),
        ("consistency", to_mixture, later),
    ):
        gradient, value = kl(target.flatten(0, 1)[:, None], log_p)
        shaped = gradient.squeeze(2).unflatten(0, (3, 9)).transpose(1, 2)
        found[name] = (shaped, value.view(3, 9).sum(-1))
    return found


def control_terms(io):
    """The same of -cv, of the image (first) and of each of the student's own [B, J, ...]."""
    log_p, gradients, values = student_of(io), [], []
    for tokens in all_tokens(io).unbind(1):
        value, factors = control_variate(of_tokens(log_p, tokens))
        at = factors.transpose(1, 2).flatten(0, 1)[..., None, None]
        found = towards_tokens(by_position(log_p), tokens.flatten()[:, None, None], at)
        gradients.append(-found.squeeze(2).unflatten(0, (3, 9)).transpose(1, 2))
        values.append(-value)
    return torch.stack(gradients, 1), torch.stack(values, 1)


def test_losses_and_gradients_are_those_of_the_authors_code(io):
    kl, (control, cv), weights = kl_terms(io), control_terms(io), io["weights"]
    asked = weights.of_tokens(4)
    torch.testing.assert_close(cv[:, 0], io["loss_data_cor"], atol=1e-5, rtol=1e-5)

    def compare(name, gradient, value):
        torch.testing.assert_close(value, io[f"loss_{name}"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(gradient / 3, io[f"grad.{name}"], atol=1e-6, rtol=0)

    def times(weight, tensor):
        return weight.view(-1, *[1] * (tensor.ndim - 1)) * tensor

    def summed(part, tensor):
        weight = asked[:, part]
        return (weight.reshape(*weight.shape, *[1] * (tensor.ndim - 2)) * tensor[:, part]).sum(1)

    image, own = slice(0, 1), slice(1, None)
    compare("data", kl["data"][0] + summed(image, control), kl["data"][1] + summed(image, cv))
    compare("distil", *(times(weights.teacher, part) for part in kl["distil"]))
    compare(
        "consistency",
        times(weights.consistency, kl["consistency"][0]) + summed(own, control),
        times(weights.consistency, kl["consistency"][1]) + summed(own, cv),
    )


def test_the_control_variate_is_what_tokens_have_in_common(golden):
    """The mixture's likelihood is that of tokens apart, plus it; counted in a world of 27."""
    closed = golden("objectives/closed.safetensors")
    log_p = closed["di4c.logits"].log_softmax(-1)[None].expand(27, -1, -1, -1)
    states = torch.cartesian_prod(*[torch.arange(3)] * 3)
    value, _ = control_variate(of_tokens(log_p, states))
    torch.testing.assert_close(value, closed["di4c.cv"], atol=1e-10, rtol=0)
    apart = of_tokens(mixture(log_p)[:, None], states).squeeze(1).sum(-1)
    expected = closed["di4c.mixture_log_likelihood"]
    torch.testing.assert_close(apart + value, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_two_equal_bits_have_up_to_log_two_in_common(golden, a):
    logits = torch.tensor([[a, -a], [-a, a]], dtype=torch.float64) / 2
    log_p = logits.log_softmax(-1)[None, :, None].expand(2, -1, 2, -1)
    value, _ = control_variate(of_tokens(log_p, torch.tensor([[0, 0], [0, 1]])))
    expected = golden("objectives/closed.safetensors")[f"di4c.equal_bits.{a}"][:2]
    torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)


def spec_with(objective, **groups):
    student = {"latent": True, **groups.pop("student", {})}
    spec = small_spec(init={"mask_ratio": 1}, student=student, **groups)
    return type(spec).model_validate({**spec.model_dump(), "objectives": [objective]})


def run_of(teacher, spec, folder=None):
    torch.manual_seed(0)
    supplies = Supplies(pairs=PairStore(teacher, spec, folder) if folder else None)
    generator = torch.Generator().manual_seed(0)
    return Distillation(teacher, spec, generator, contextlib.nullcontext, supplies=supplies)


DI4C = {"kind": "di4c", "images": "student", "samples": 3}


def written_out(student, hidden, later, phi, tokens, shown, slots):
    """The loss as the paper writes it, for torch to differentiate."""
    count = len(shown.image)
    log_p = student.head(hidden).log_softmax(-1).unflatten(0, (count, 3))
    log_q = student.head(later).log_softmax(-1).unflatten(0, (count, 3)).detach()
    mean, weights = mixture(log_p), Weights.at(shown.r, Di4cSpec(samples=3))
    total = torch.zeros(count)
    for number in range(tokens.shape[1]):
        index = tokens[:, None, number, ..., None].expand(-1, 3, -1, -1, -1)
        drawn = log_p.gather(-1, index).squeeze(-1) * slots[:, None]
        value, _ = control_variate(drawn.flatten(2))
        total = total - weights.of_tokens(3)[:, number] * value
    for weight, log_of, other in (
        (torch.ones(count), phi, mean[:, None]),
        (weights.teacher, phi, log_p),
        (weights.consistency, mixture(log_q), mean[:, None]),
    ):
        of_slot = (log_of.exp()[:, None] * (log_of[:, None] - other)).sum(-1).mean(1)
        total = total + weight * (of_slot * slots).flatten(1).sum(-1)
    return total.sum() / count


@pytest.mark.parametrize("where", ["all", "masked"])
@pytest.mark.parametrize("name", ["digits", "maskbit"])
def test_what_the_student_gets_is_the_gradient_of_the_loss(name, where, monkeypatch):
    teacher = tiny_teacher(name)
    spec = spec_with({**DI4C, "slots": where}, train={"batch_size": 2})
    run = run_of(teacher, spec)
    run.chunk_tokens = 20  # several chunks
    di4c = run.losses.passes[0]
    seen = {}
    learn = type(di4c).learn

    def watched(self, hidden, later, phi, tokens, shown):
        leaf = hidden.detach().requires_grad_()
        slots = torch.ones(shown.masked.shape) if where == "all" else shown.masked.float()
        count = leaf.shape[0] // 3 * leaf.shape[1]
        said = self.log_phi(phi, torch.arange(count)).view(*shown.image.shape, -1)
        written_out(run.student, leaf, later, said, tokens, shown, slots).backward()
        hidden.retain_grad()
        learn(self, hidden, later, phi, tokens, shown)
        seen.update(found=hidden.grad, expected=leaf.grad)

    monkeypatch.setattr(type(di4c), "learn", watched)
    run.turn_to(0)
    di4c.backward(0, measure=True)
    scale = seen["expected"].abs().max()
    torch.testing.assert_close(seen["found"] / scale, seen["expected"] / scale, atol=1e-5, rtol=0)


def test_rows_of_all_latents_of_a_position_stand_together():
    rows = latent_rows(2, 3, 4, torch.device("cpu"))
    assert rows[:6].tolist() == [0, 4, 8, 1, 5, 9]
    assert sorted(rows.tolist()) == list(range(24))


def test_a_run_trains_the_student_and_its_latent(teacher, tmp_path):
    objective = {"kind": "di4c", "images": "teacher", "teacher_images": 8, "samples": 2}
    run = run_of(teacher, spec_with(objective, train={"batch_size": 4}), tmp_path)
    before = run.student.latent[2].weight.clone()
    for step in range(2):
        values = run.step(step, measure=True).values
    assert {"di4c_loss", "di4c_control"} <= set(values)
    assert not torch.equal(run.student.latent[2].weight, before)
    assert set(run.networks()) == {"student"}


def test_what_it_cannot_be_used_with_is_refused_with_the_reason(teacher):
    spec = spec_with(DI4C)
    without = spec.model_copy(update={"student": small_spec().student})
    with pytest.raises(SpecError, match="a mixture over a latent, and the student has none"):
        run_of(teacher, without)
    mixed = spec.model_copy(update={"init": small_spec().init})
    with pytest.raises(SpecError, match="shows the student masks and tokens of images"):
        run_of(teacher, mixed)
    with pytest.raises(SpecError, match="the network of `halton-tiny` has no room for one"):
        run_of(tiny_teacher("halton-tiny"), spec)
    with pytest.raises(ValueError, match="latent adds weights that are trained whole"):
        spec_with(DI4C, student={"lora": {"rank": 2}})
