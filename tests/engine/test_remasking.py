"""x_tilde: the same whether a step draws it as it goes or finds it prepared."""

import pytest
import torch

from dimo_cli.engine.remasking import Remasking, bridge_mask
from dimo_cli.specs.init import MaskingSpec
from tests.conftest import small_spec
from tests.helpers.distilling import make
from tests.helpers.tabular import state_numbers
from tests.helpers.worlds import world_of


def test_exact_masks_have_the_count_of_their_ratio_and_keep_all_other_tokens(teacher, generator):
    run = make(teacher)
    tokens = torch.randint(16, (5, 64, 1), generator=generator)
    ratio = torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    x_tilde, mask = run.remasking.at(tokens, ratio, generator)
    assert mask.slots.sum((1, 2)).tolist() == [1, 16, 32, 58, 64]
    assert torch.equal(x_tilde == teacher.space.mask_id, mask.slots)
    assert torch.equal(x_tilde[~mask.slots], tokens[~mask.slots])
    assert torch.equal(mask.rows, mask.slots.flatten().nonzero().squeeze(-1))


def test_each_update_has_the_schedule_that_the_spec_gives_it(teacher):
    masking = {"student": "arccos", "auxiliary": "linear", "lowest": 0.2, "highest": 0.7}
    law = Remasking(make(teacher, masking=masking).spec.masking, 16)
    student, auxiliary, again = (
        law.ratios(which, 4000, torch.Generator().manual_seed(3)) for which in (0, 1, 2)
    )
    assert torch.equal(auxiliary, again)
    assert student.mean() > auxiliary.mean() + 0.05
    assert (student.min(), student.max()) == (0.2, 0.7)


def test_what_was_prepared_is_what_would_have_been_drawn(teacher):
    groups = {"init": {"embed_noise": 0.0}, "auxiliary": {"updates": 2}}
    prepared = make(teacher, **groups).prepare()
    assert len(prepared.masks) == len(prepared.ratios) == 3
    run = make(teacher, **groups)
    run.prepared = prepared
    tokens = torch.zeros(8, 64, 1, dtype=torch.long)
    for which in range(3):
        ratio, x_tilde, mask = run.draw_x_tilde(tokens, which)
        assert torch.equal(ratio, prepared.ratios[which])
        assert torch.equal(mask.slots, prepared.masks[which])
        assert torch.equal(x_tilde == teacher.space.mask_id, mask.slots)


def test_a_shared_x_tilde_is_prepared_once(teacher):
    prepared = make(teacher, auxiliary={"share_x_tilde": True, "updates": 2}).prepare()
    assert torch.equal(prepared.masks[0], prepared.masks[1])
    assert not torch.equal(prepared.masks[1], prepared.masks[2])


@pytest.mark.parametrize("exact", [True, False])
def test_the_bridge_masks_only_what_a_step_did_not_keep(generator, exact):
    kept = torch.rand(400, 8, 2, generator=generator) < 0.6
    kept[:, 0, 0] = False  # a step draws something
    ratio = torch.rand(400, generator=generator)
    mask = bridge_mask(kept, ratio, generator, exact)
    assert not (mask & kept).any()
    counts, is_open = mask.flatten(1).sum(-1), (~kept).flatten(1).sum(-1)
    assert counts.min() >= 1
    if exact:
        assert torch.equal(counts, torch.round(ratio * is_open).long().clamp(min=1))


@pytest.mark.parametrize("posterior", ["exact", "factorised"])
@pytest.mark.parametrize("times", ["1.0_0.5", "0.8_0.3"])
def test_its_law_is_the_forward_law_if_tokens_are_drawn_together(
    golden, generator, times, posterior
):
    """And that of the sheet if each is drawn for itself. A sample always has one mask here."""
    world = world_of(golden("objectives/world_three.safetensors"))
    closed, draws = golden("objectives/closed.safetensors"), 100_000
    t, s = (float(time) for time in times.split("_"))
    full, joint = world.states[world.counts == 0], world.tensors["joint"].flatten()
    clean = full[torch.multinomial(joint, draws, replacement=True, generator=generator)]
    kept = torch.rand(draws, 3, generator=generator) >= t
    tokens = clean
    if posterior == "factorised":
        seen = clean.masked_fill(~kept, 3)
        says = world.teacher[state_numbers(seen, 3)].flatten(0, 1)
        tokens = torch.multinomial(says, 1, generator=generator).view(draws, 3)
    masking = MaskingSpec(method="bernoulli", bridge=True)
    ratio = torch.full((draws,), s / t)
    args = (tokens[..., None], ratio, generator, kept[..., None])
    x_tilde, _ = Remasking(masking, 3).at(*args)
    numbers = state_numbers(x_tilde.squeeze(-1), 3)
    found = torch.bincount(numbers, minlength=64) / draws
    law = closed[f"bridge.first.{times}.{'forward' if posterior == 'exact' else 'factorised'}"]
    several = world.counts >= 2  # those of one mask have the samples that would have had none
    error = (law * (1 - law) / draws).sqrt()
    assert ((found - law).abs() < 5 * error + 1e-9)[several].all()


def test_a_run_of_several_steps_masks_again_what_its_step_drew(teacher):
    di = make(teacher, student={"steps": [4]}, masking={"bridge": True})
    for seed in range(20):
        di.reseed(seed)
        generation = di.generate(0)
        if generation.kept is not None:
            break
    for which in (0, 1):
        ratio, x_tilde, mask = di.draw_x_tilde(generation.tokens, which, generation.kept)
        assert not (mask.slots & generation.kept).any()
        torch.testing.assert_close(ratio, mask.slots.flatten(1).float().mean(-1))
        assert (x_tilde == di.teacher.space.mask_id).equal(mask.slots)
    values = di.step(0, measure=True).values
    assert "teacher_kl" not in values  # its counts of masks are of no known law


def test_in_one_step_there_is_no_bridge():
    with pytest.raises(ValueError, match=r"masking\.bridge needs student\.steps above 1"):
        small_spec(masking={"bridge": True})
