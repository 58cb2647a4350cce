"""Students of a few steps: what they keep, what they are trained on, and what that is worth."""

import contextlib
import copy
import itertools
import math

import pytest
import torch

from dimo_cli.engine import masking
from dimo_cli.engine.calibrated import calibrated_weights, count_probabilities
from dimo_cli.engine.distill import Distillation
from dimo_cli.engine.divergence import build_divergence
from dimo_cli.engine.draws import Rows
from dimo_cli.engine.objective import SoftObjective
from dimo_cli.engine.one_step import sample_student
from dimo_cli.engine.rollout import ONE_STEP, Rollout, Start, certain_logits, open_counts
from dimo_cli.errors import SpecError
from dimo_cli.specs.refine import RelaxSpec
from dimo_cli.teachers.protocol import Backbone, Cond, TokenSpace
from tests.conftest import small_spec
from tests.helpers.distilling import assert_same, disturb, gradients, make
from tests.helpers.tiny import tiny_teacher
from tests.helpers.worlds import world_of


class Fixed:
    """Always the same step, in place of a drawn one."""

    def __init__(self, *before):
        self.before = before

    def draw(self, source):
        return self.before

    def still_open(self, path):
        return 0


class Table(Backbone):
    """Predictions [N, S, V] of every state of a small world, as a network."""

    def __init__(self, world, groups):
        super().__init__()
        self.log_p, self.groups = world.teacher.float().log(), groups

    def embed(self, tokens):
        return tokens.float()

    def embed_probs(self, probs, mask=None):
        raise NotImplementedError

    def hidden(self, embeds, cond, taps=()):
        base, flat = self.log_p.shape[-1] + 1, embeds.flatten(1).long()
        powers = base ** torch.arange(flat.shape[1]).flip(0)
        return self.log_p[(flat * powers).sum(-1)].view(*embeds.shape[:2], -1)

    def head(self, hidden, positions=None):
        return hidden.unflatten(-1, (self.groups, -1))

    def embedding_parameters(self):
        return []


def law_in_steps(world, plan):
    """The law of what is drawn from masks alone in these steps, by counting all orders."""
    codes, slots = world.teacher.shape[-1], world.states.shape[1]
    words = torch.tensor(list(itertools.product(range(codes), repeat=slots)))
    powers = (codes + 1) ** torch.arange(slots).flip(0)
    law, orders = (
        torch.zeros(len(words), dtype=torch.float64),
        list(itertools.permutations(range(slots))),
    )
    for order in map(torch.tensor, orders):
        chance, open_before = torch.ones_like(law), slots
        for still_open in plan:
            seen = torch.where(order >= open_before, words, codes)
            said = world.teacher[(seen * powers).sum(-1)].gather(-1, words[..., None]).squeeze(-1)
            drawn = (order < open_before) & (order >= still_open)
            chance, open_before = chance * said[:, drawn].prod(-1), still_open
        law += chance / len(orders)
    return law


def kl(q, p):
    return float((q * (q.log() - p.log()).nan_to_num()).sum())


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        ("arccos", 1, (0,)),
        ("arccos", 2, (42, 0)),
        ("cosine", 4, (59, 45, 24, 0)),
        ("linear", 8, (56, 48, 40, 32, 24, 16, 8, 0)),
    ],
)
def test_a_step_leaves_as_much_open_as_the_teachers_mask_schedule_says(schedule, steps, expected):
    assert open_counts(schedule, steps, 64) == expected


def test_more_steps_than_tokens_are_refused():
    assert open_counts("arccos", 3, 3) == (2, 1, 0)
    with pytest.raises(SpecError, match="4 steps are more than the 3 tokens"):
        open_counts("arccos", 4, 3)


def test_what_is_kept_stays_and_grows_and_all_else_is_masked(generator):
    tokens = torch.randint(5, (6, 4, 2), generator=generator)
    start = Start(torch.full_like(tokens, 5))
    assert torch.equal(start.filled(tokens), tokens)
    kept = torch.zeros_like(tokens, dtype=torch.bool)
    for still_open in (6, 3, 1):
        before = start
        drawn = torch.randint(5, (6, 4, 2), generator=generator)
        start = start.after(drawn, still_open, 5, generator)
        assert torch.equal(start.kept.sum((1, 2)), torch.full((6,), 8 - still_open))
        assert (start.kept | ~kept).all()
        assert torch.equal(start.tokens[kept], before.tokens[kept])
        new = start.kept & ~kept
        assert torch.equal(start.tokens[new], drawn[new])
        assert (start.tokens[~start.kept] == 5).all()
        kept = start.kept


def test_every_slot_is_kept_equally_often(generator):
    tokens = torch.zeros(20_000, 3, 2, dtype=torch.long)
    kept = Start(tokens).after(tokens, 4, 1, generator).kept.float().mean(0)
    torch.testing.assert_close(kept, torch.full((3, 2), 1 / 3), atol=0.017, rtol=0)


def test_one_step_draws_nothing_to_find_out_which_one_it_is(generator):
    before = generator.get_state()
    assert Rollout.of((1,), "arccos", 64).draw(generator) == ()
    assert generator.get_state().equal(before)


def test_all_steps_are_drawn_alike_and_the_first_is_the_same_for_all(generator):
    rollout = Rollout.of((1, 2, 4), "arccos", 64)
    drawn = [rollout.draw(generator) for _ in range(6000)]
    lengths = torch.tensor([len(before) for before in drawn]).bincount() / 6000
    expected = torch.tensor([1, 2, 1, 1]) / 5
    torch.testing.assert_close(lengths, expected, atol=0.03, rtol=0)
    assert {before for before in drawn if len(before) == 3} == {(53, 42, 29)}


def test_every_rank_and_pass_trains_the_same_step():
    rollout = Rollout.of((2, 4, 8), "arccos", 64)

    def drawn(part):
        source = Rows(torch.Generator().manual_seed(3), part, 4)
        return [rollout.draw(source) for _ in range(20)]

    assert drawn(0) == drawn(3)


@pytest.mark.parametrize(("place", "groups"), [("three", 1), ("two_groups", 2)])
def test_in_more_steps_an_exact_student_is_nearer_to_the_joint(golden, generator, place, groups):
    """Every single prediction is right, and only that tokens are drawn together is not."""
    world = world_of(golden(f"objectives/world_{place}.safetensors"))
    joint, (_, slots, codes) = world.tensors["joint"], world.teacher.shape
    plans = [open_counts("linear", steps, slots) for steps in (1, 2, slots)]
    laws = [law_in_steps(world, plan) for plan in plans]
    far, nearer, exact = (kl(law, joint) for law in laws)
    assert far > 1.5 * nearer > 0.01
    assert exact == pytest.approx(0, abs=1e-12)

    space = TokenSpace(slots // groups, groups, codes, codes, codes, 1, None)
    cond, start = Cond({"n": torch.zeros(40_000)}), torch.full((40_000, *space_of(space)), codes)
    powers = codes ** torch.arange(slots).flip(0)
    for plan, law in zip(plans, laws, strict=True):
        args = (Table(world, groups), space, start, cond, 0.0, generator)
        words = (sample_student(*args, plan=plan).flatten(1) * powers).sum(-1)
        found = words.bincount(minlength=len(law)) / len(words)
        error = (law * (1 - law) / len(words)).sqrt()
        assert ((found - law).abs() <= 5 * error + 1e-9).all()


def space_of(space):
    return space.length, space.groups


def test_a_student_is_trained_on_what_it_kept_itself(teacher):
    run = make(teacher, student={"steps": [4]}, init={"embed_noise": 0.0})
    run.rollout = Fixed(53, 42)
    generation = run.generate(0)
    assert torch.equal(generation.kept.sum((1, 2)), torch.full((8,), 64 - 42))
    seen = generation.tokens.masked_fill(~generation.kept, teacher.space.mask_id)
    hidden = run.hidden(run.student, run.student.embed(seen), generation.cond)
    torch.testing.assert_close(generation.hidden, hidden)
    assert generation.hidden.requires_grad


@pytest.mark.parametrize("content", ["tokens", "soft"])
def test_the_gradient_of_equation_7_is_taken_at_slots_that_the_step_drew(teacher, content):
    run = make(
        teacher,
        student={"steps": [2]},
        init={"embed_noise": 0.0},
        loss={"chunk_tokens": 37},
        auxiliary={"knows_step": False},
        masking={"content": content},
    )
    run.rollout = Fixed(42)
    disturb(run.auxiliary)
    generation = run.generate(0)
    before = run.run_generator.get_state()
    run.student_update.backward(generation, measure=True)
    found = gradients(run.student)

    run.run_generator.set_state(before)
    run.student.zero_grad()
    kept, space = generation.kept, teacher.space
    x_init = generation.tokens.masked_fill(~kept, space.mask_id)
    logits = run.student(x_init, generation.cond)
    x_tilde, mask = run.remasking.at(
        generation.tokens, masking.draw_ratio("arccos", 8, run.generator), run.generator
    )
    with torch.no_grad():
        probs = torch.where(
            kept[..., None],
            torch.nn.functional.one_hot(generation.tokens, space.vocab).float(),
            logits.softmax(-1),
        )

        def said(network):
            if content == "tokens":
                return network(x_tilde, generation.cond).log_softmax(-1)
            embeds = network.embed_probs(probs, mask.slots)
            return network.head(network.hidden(embeds, generation.cond)).log_softmax(-1)

        divergence = build_divergence(run.spec.loss.divergence)
        field = divergence.logit_gradient(said(teacher.backbone), said(run.auxiliary))
    asked = mask.slots & ~kept
    assert (mask.slots & kept).any()
    ((logits * field * asked[..., None]).sum() / 8).backward()
    assert_same(found, gradients(run.student))


def test_entropy_is_that_of_the_slots_that_were_drawn(teacher):
    run = make(teacher, student={"steps": [2]}, init={"embed_noise": 0.0})
    run.rollout = Fixed(42)
    generation = run.generate(0, measure=True)
    log_p = run.student.head(generation.hidden).detach().log_softmax(-1)[~generation.kept]
    expected = -(log_p.exp() * log_p).sum(-1).mean()
    assert generation.entropy.item() == pytest.approx(expected.item(), rel=1e-4)
    assert generation.top1.item() == pytest.approx(log_p.exp().amax(-1).mean().item(), rel=1e-4)


def test_the_entropy_bonus_leaves_kept_slots_alone(teacher):
    plain, bonus = (
        make(
            teacher,
            student={"steps": [2]},
            loss={"entropy_bonus": weight},
            init={"embed_noise": 0.0},
        )
        for weight in (0.0, 0.5)
    )
    found = []
    for run in (plain, bonus):
        run.rollout = Fixed(42)
        disturb(run.auxiliary)
        generation = run.generate(0)
        run.student_update.backward(generation, measure=False)
        found.append(gradients(run.student))
    bonus.student.zero_grad()
    seen = generation.tokens.masked_fill(~generation.kept, teacher.space.mask_id)
    log_p = bonus.student(seen, generation.cond).log_softmax(-1)[~generation.kept]
    (0.5 * (log_p.exp() * log_p).sum() / 8).backward()
    expected = {n: found[0][n] + g for n, g in gradients(bonus.student).items()}
    assert_same(found[1], expected, atol=1e-5)


def test_an_auxiliary_with_soft_targets_is_told_kept_tokens_for_certain(teacher):
    run = make(teacher, student={"steps": [2]}, auxiliary={"soft_weight": 1.0})
    run.rollout = Fixed(42)
    generation = run.generate(0)
    rows = torch.arange(8 * 64)
    p = run.student_logits(generation, rows).softmax(-1).view(8, 64, 1, -1)
    assert torch.equal(p.argmax(-1)[generation.kept], generation.tokens[generation.kept])
    assert (p.amax(-1)[generation.kept] == 1).all()
    assert (p.amax(-1)[~generation.kept] < 1).all()


def test_a_network_can_be_certain():
    logits = certain_logits(torch.tensor([[1, 0]]), 3)
    assert logits.softmax(-1).tolist() == [[[0, 1, 0], [1, 0, 0]]]


def test_a_step_in_several_passes_is_the_step_in_one(teacher):
    smooth = {"learning_rate": 1e-3, "warmup_steps": 0, "eps": 1e-3}
    groups = {
        "student": {"optimizer": smooth, "steps": [2, 4]},
        "auxiliary": {"optimizer": smooth, "fresh_samples": True},
        "loss": {"chunk_tokens": 100},
    }
    whole = make(teacher, train={"batch_size": 8}, **groups)
    cut = make(teacher, train={"batch_size": 2, "accumulate": 4}, **groups)
    for step in range(3):
        first, second = whole.step(step, measure=True), cut.step(step, measure=True)
    assert "auxiliary_gap" not in first.values
    for name in ("student_gradient", "auxiliary_loss", "auxiliary_gradient"):
        assert first.values[name] == pytest.approx(second.values[name], rel=1e-3)
    for name, network in whole.networks().items():
        assert_same(dict(network.named_parameters()), dict(cut.networks()[name].named_parameters()))
    assert whole.run_generator.get_state().equal(cut.run_generator.get_state())


def test_naming_one_step_changes_nothing(teacher):
    plain, named = make(teacher), make(teacher, student={"steps": [1]})
    for run in (plain, named):
        run.step(0)
    assert list(named.rollout.plans) == [ONE_STEP]
    for one, other in zip(plain.student.parameters(), named.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert copy.copy(named.run_generator.get_state()).equal(plain.run_generator.get_state())


@pytest.mark.parametrize("relax", ["soft", "gumbel_st", "reinforce"])
def test_losses_of_the_image_see_kept_tokens_and_change_none_of_them(teacher, relax):
    seen = []

    class Watching(SoftObjective):
        name = "watching"

        def loss_of(self, generation, logits):
            return lambda weights: seen.append(weights.detach()) or weights[..., :4].sum((1, 2, 3))

        def factor(self):
            return 1.0

    spec = small_spec(student={"steps": [2]}, init={"embed_noise": 0.0})
    generator = torch.Generator().manual_seed(0)
    run = Distillation(
        teacher,
        spec,
        generator,
        contextlib.nullcontext,
        objectives=[Watching()],
        relax=RelaxSpec(kind=relax),
    )
    run.rollout = Fixed(42)
    generation = run.generate(0)
    kept, space = generation.kept, teacher.space
    gradients_of_hidden = run.student_update.soft_gradient(generation)
    expected = torch.nn.functional.one_hot(generation.tokens, space.vocab).float()
    assert torch.equal(seen[0][kept], expected[kept])
    at_kept = kept.all(-1)
    assert (gradients_of_hidden[at_kept] == 0).all()
    assert (gradients_of_hidden[~at_kept] != 0).any()


@pytest.mark.parametrize("name", ["maskbit", "titok-s128", "halton-tiny"])
def test_students_of_every_kind_of_token_are_trained_for_a_few_steps(name):
    """Two groups a token, tokens without a place, and classes among the logits."""
    teacher = tiny_teacher(name)
    run = make(teacher, student={"steps": [1, 2, 3]}, train={"batch_size": 2})
    slots = teacher.space.length * teacher.space.groups
    before = open_counts(teacher.sampler.schedule, 3, slots)[:2]
    for step, path in enumerate([(), before[:1], before]):
        run.rollout = Fixed(*path)
        values = run.step(step, measure=True).values
        assert all(torch.tensor(value).isfinite() for value in values.values())


def test_a_step_leaves_open_what_the_longest_way_on_does_not_need():
    rollout = Rollout.of((1, 2, 4), "arccos", 64)
    left = {path: rollout.still_open(path) for path in rollout.paths}
    assert left == {(): 0, (42,): 0, (53,): 42, (53, 42): 29, (53, 42, 29): 0}
    alone = Rollout.of((4,), "arccos", 64)
    assert [alone.still_open(path) for path in alone.paths] == [53, 42, 29, 0]


@pytest.mark.parametrize("masking", [{}, {"bridge": True}], ids=["anywhere", "bridge"])
def test_what_the_next_step_draws_anew_is_never_judged(teacher, masking):
    run = make(teacher, student={"steps": [4]}, masking=masking)
    for _ in range(6):
        generation = run.generate(0)
        least = (53, 42, 29, 0)[len(generation.path)]
        assert generation.still_open == least
        for which in (0, 1):
            drawn = generation.tokens, which, generation.kept, generation.still_open
            ratio, _, mask = run.draw_x_tilde(*drawn)
            counts = mask.slots.flatten(1).sum(-1)
            assert counts.min() > least
            if not masking:
                torch.testing.assert_close(counts, (64 * ratio).round().long().clamp(min=1))


def test_all_tokens_of_a_step_are_judged_where_that_is_asked_for(teacher):
    run = make(teacher, student={"steps": [4]}, masking={"judged": "all"})
    assert all(run.generate(0).still_open == 0 for _ in range(4))


def test_a_step_is_judged_by_the_law_of_what_stays(golden, generator):
    """The weights of its masks make the KL that of any so many tokens, in a counted world."""
    world = world_of(golden("objectives/world_three.safetensors"))
    slots, still_open = 3, 1
    weights = calibrated_weights("arccos", slots, still_open)
    q = tokens_apart(world)
    expected = sum(
        kl(marginal(q, pair), marginal(world.tensors["joint"], pair)) / 3
        for pair in itertools.combinations(range(slots), slots - still_open)
    )
    found, codes = 0.0, world.teacher.shape[-1]
    chances = count_probabilities("arccos", slots - still_open)
    for state, said in zip(world.states, world.teacher, strict=True):
        masked = state == codes
        count = int(masked.sum())
        if count <= still_open:
            continue
        subsets = math.comb(slots, count)
        shown = [
            None if hidden else int(token) for token, hidden in zip(state, masked, strict=True)
        ]
        chance = agreeing(q, shown).sum() * chances[count - still_open - 1] / subsets
        for slot in masked.nonzero().flatten().tolist():
            psi = conditional(q, shown, slot)
            found += float(chance * weights[count - 1]) * kl(psi, said[slot].double())
    assert found == pytest.approx(expected, abs=1e-9)


def tokens_apart(world):
    """The law of a student of one step that says what the teacher says of masks alone."""
    codes, slots = world.teacher.shape[-1], world.states.shape[1]
    blank = (world.states == codes).all(-1).nonzero().item()
    law = torch.ones([codes] * slots, dtype=torch.float64)
    for slot in range(slots):
        shape = [codes if place == slot else 1 for place in range(slots)]
        law = law * world.teacher[blank, slot].double().view(shape)
    return law


def marginal(law, places):
    """That of some slots."""
    codes = round(law.numel() ** (1 / 3))
    rest = [place for place in range(3) if place not in places]
    return law.double().reshape([codes] * 3).sum(rest).flatten()


def agreeing(law, shown):
    """The part of a law [V, V, V] that has these tokens."""
    return law[tuple(slice(None) if token is None else slice(token, token + 1) for token in shown)]


def conditional(law, shown, slot):
    """The law of a slot among those that have these tokens."""
    part = agreeing(law, shown)
    found = part.sum([place for place in range(3) if place != slot])
    return found / found.sum()
