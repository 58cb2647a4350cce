"""x_tilde: the same whether a step draws it as it goes or finds it prepared."""

import torch

from dimo_cli.engine.remasking import Remasking
from tests.helpers.distilling import make


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
