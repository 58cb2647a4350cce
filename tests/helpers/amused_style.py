"""What the tests of aMUSEd, Meissonic and Muddit share: golden networks, and checks for all."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_amused import AmusedScheduler
from torch.testing import assert_close

from dimo_cli.engine.many_steps import guided_head, reveal, token_scores
from dimo_cli.hub.loading import fill, on_meta
from dimo_cli.teachers.blueprint import Blueprint
from dimo_cli.teachers.meissonic import rotary_table
from dimo_cli.teachers.plans import SCHEDULES, masked_counts
from dimo_cli.teachers.protocol import Cond, Step
from dimo_cli.teachers.vq_model import as_pixels, as_rows

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
GUIDED_TOLERANCE = {"atol": 1e-3, "rtol": 1e-4}


@dataclass
class Case:
    """A golden network over the grid of its golden inputs."""

    blueprint: Blueprint
    arch: Any
    backbone: Any
    weights: dict
    io: dict

    @property
    def grid(self):
        return tuple(self.io["input_ids"].shape[1:])

    @property
    def tokens(self):
        return self.io["input_ids"].flatten(1)[..., None]

    def cond(self, which="cond", time=None):
        """The golden condition: `cond` or `uncond`, at the golden time or at none."""
        tensors = {
            "text": self.io[f"encoder_hidden_states_{which}"],
            "pooled": self.io[f"pooled_{which}"],
            "micro": self.io["micro_conds"],
        }
        if time is not None:
            tensors["time"] = self.io[time].float().expand(len(tensors["text"]))
        return Cond(tensors)

    def build(self):
        """The same network without weights."""
        return on_meta(lambda: type(self.backbone)(self.arch, self.grid))

    def logits(self, embeds, cond):
        return self.backbone.head(self.backbone.hidden(embeds, cond))


def load_case(golden, module, backbone_class, variant, folder, suffix="", tokenizer="amused"):
    """A golden network, through config files and strict loading like a published one."""
    config = golden(f"{folder}/config{suffix}.json")
    codes = {"num_vq_embeddings": config["codebook_size"]}
    vqvae = golden(f"{tokenizer}/config_vqvae.json") | codes
    factor = 2 ** (len(vqvae["block_out_channels"]) - 1)
    blueprint = module.blueprint(
        variant,
        {"image_size": 8 * factor},
        lambda file: config if file.path.endswith("transformer/config.json") else vqvae,
    )
    arch = module.Architecture.model_validate(blueprint.architecture)
    io = golden(f"{folder}/io{suffix}.safetensors")
    weights = blueprint.backbone.convert(golden(f"{folder}/transformer{suffix}.safetensors"))
    grid = tuple(io["input_ids"].shape[1:])
    backbone = fill(on_meta(lambda: backbone_class(arch, grid)), weights, "the golden file")
    return Case(blueprint, arch, backbone, weights, io)


def rows_of(maps):
    """Golden maps [B, V, h, w] as logits [B, L, 1, V]."""
    return maps.flatten(2).transpose(1, 2)[..., None, :]


def flat_probs(case):
    """Golden probabilities and the positions that are masked again, as tokens are."""
    probs = case.io["soft_probs"].flatten(1, 2)[..., None, :]
    return probs, case.io["soft_remask"].flatten(1)[..., None]


def check_guided_logits(case, cond, null):
    """Logits of both conditions, and their combination as the sampler makes it."""
    length, count = case.tokens.shape[1], len(case.tokens)
    for which, condition in (("cond", cond), ("uncond", null)):
        expected = rows_of(case.io[f"logits_{which}"])
        assert_close(case.backbone(case.tokens, condition), expected, **TOLERANCE)
    scale = case.io["cfg_scale"].item()
    project = guided_head(case.backbone, case.tokens, cond, null, scale)
    guided = project(torch.arange(count * length)).unflatten(0, (count, length))
    assert_close(guided, rows_of(case.io["logits_cfg"]), **GUIDED_TOLERANCE)


def check_soft_logits(case):
    """Probabilities in place of tokens, without and with positions that are masked again."""
    probs, remask = flat_probs(case)
    embed, cond = case.backbone.embed, case.cond()
    mixed = embed.refine(case.io["soft_embeds"].flatten(1, 2))
    soft = case.backbone.embed_probs(probs)
    assert_close(soft, mixed, **TOLERANCE)
    assert_close(case.logits(soft, cond), rows_of(case.io["logits_soft"]), **TOLERANCE)
    remasked = case.logits(case.backbone.embed_probs(probs, remask), cond)
    assert_close(remasked, rows_of(case.io["logits_soft_remasked"]), **TOLERANCE)


def check_one_hots(case):
    """One-hots embed like the tokens they stand for, and the mask like the mask token."""
    space, tokens = case.blueprint.space, case.tokens
    masked = tokens == space.mask_id
    assert masked.any()
    one_hots = torch.nn.functional.one_hot(tokens.masked_fill(masked, 0), space.vocab).float()
    embedded = case.backbone.embed_probs(one_hots, masked)
    assert_close(embedded, case.backbone.embed(tokens), atol=1e-6, rtol=1e-5)


def slopes(function, point, directions):
    """Slopes of a scalar function along directions, by autograd."""
    point = point.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(point), point)
    return torch.stack([(gradient * direction).sum() for direction in directions])


@torch.no_grad()
def measured_slopes(function, point, directions, step=1e-4):
    """The same slopes, by central differences."""
    differences = [
        function(point + step * direction) - function(point - step * direction)
        for direction in directions
    ]
    return torch.stack(differences) / (2 * step)


def unit_directions(point, generator, count=3):
    """Random directions of length 1."""
    drawn = torch.randn((count, *point.shape), generator=generator, dtype=point.dtype)
    return [direction / direction.norm() for direction in drawn]


def check_embedding_slopes(case, generator):
    """The gradient of soft embeddings, through norm and convolution."""
    exact = copy.deepcopy(case.backbone).double()
    norm = exact.embed.layer_norm
    # diffusers' RMSNorm squares in float32 whatever it is given, too coarse for small differences.
    scaled = norm.weight is not None
    precise = torch.nn.RMSNorm(norm.dim, norm.eps, scaled, dtype=torch.float64)
    precise.load_state_dict(norm.state_dict())
    exact.embed.layer_norm = precise

    probs, remask = flat_probs(case)
    probs = probs.double()
    probe = torch.randn(exact.embed(case.tokens).shape, generator=generator, dtype=torch.float64)
    directions = unit_directions(probs, generator)

    def probed(backbone):
        return lambda p: (backbone.embed_probs(p, remask) * probe).sum()

    measured = measured_slopes(probed(exact), probs, directions)
    assert_close(slopes(probed(exact), probs, directions), measured, rtol=1e-6, atol=1e-6)
    ours = slopes(probed(case.backbone), probs.float(), [d.float() for d in directions])
    assert_close(ours, measured, rtol=1e-4, atol=1e-4, check_dtype=False)


def check_single_rows(case, generator):
    """The head of some rows is the same rows of the full head."""
    hidden = case.backbone.hidden(case.backbone.embed(case.tokens), case.cond()).detach()
    flat = hidden.flatten(0, 1)
    rows = torch.randperm(len(flat), generator=generator)[:5]
    full = case.backbone.head(hidden)
    assert full.shape == (*case.tokens.shape, case.blueprint.space.vocab)
    some = case.backbone.head(flat[rows], rows % case.tokens.shape[1])
    assert_close(some, full.flatten(0, 1)[rows], atol=1e-5, rtol=1e-5)


def gradients(case, checkpointing):
    """Gradients of all parameters for a fixed probe, and how often blocks were run."""
    backbone = copy.deepcopy(case.backbone).requires_grad_(True).train()
    backbone.gradient_checkpointing = checkpointing
    runs = []
    for module in backbone.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_: runs.append(1))
    torch.manual_seed(0)  # of dropout
    backbone(case.tokens, case.cond()).square().mean().backward()
    return {name: p.grad for name, p in backbone.named_parameters()}, len(runs)


def check_gradient_checkpointing(case):
    """Checkpointing recomputes blocks and changes no gradient."""
    plain, runs = gradients(case, checkpointing=False)
    again, more_runs = gradients(case, checkpointing=True)
    assert more_runs > runs
    assert all(gradient is not None for gradient in plain.values())
    assert_close(again, plain)


def check_half_precision(case):
    """Autocast and weights in bfloat16 both give nearly the same logits."""
    expected = case.backbone(case.tokens, case.cond())
    with torch.autocast("cpu", torch.bfloat16):
        autocast = case.backbone(case.tokens, case.cond())
    half = copy.deepcopy(case.backbone).bfloat16()
    stored = half(case.tokens, case.cond())
    assert autocast.dtype == stored.dtype == torch.bfloat16
    assert half.embed_probs(flat_probs(case)[0]).dtype == torch.bfloat16
    for logits in (autocast, stored):
        assert (logits.float() - expected).std() < 0.1 * expected.std()


def check_planning(case):
    """The network runs on the meta device, where planning measures it."""
    meta = copy.deepcopy(case.backbone).to("meta")
    cond = case.cond().to("meta")
    assert meta(case.tokens.to("meta"), cond).shape[:2] == case.tokens.shape[:2]


def captured(case, modules, cond):
    """Outputs of named modules in one pass over the golden tokens."""
    outputs, hooks = {}, []

    def keep(name):
        return lambda module, inputs, output: outputs.setdefault(name, output)

    for name in modules:
        hooks.append(case.backbone.get_submodule(name).register_forward_hook(keep(name)))
    case.backbone(case.tokens, cond)
    for hook in hooks:
        hook.remove()
    return outputs


def check_meissonic_activations(case):
    """Every recorded activation of Meissonic's network, and its rotary table."""
    last, last_single = case.arch.num_layers - 1, case.arch.num_single_layers - 1
    blocks = {
        "mm_block_first": "transformer_blocks.0",
        "mm_block_last": f"transformer_blocks.{last}",
        "single_block_first": "single_transformer_blocks.0",
        "single_block_last": f"single_transformer_blocks.{last_single}",
    }
    plain = {
        "cond_embed": "cond_embed",
        "temb": "time_text_embed",
        "context": "encoder_proj_layer_norm",
        "down_block": "down_block",
        "project_to_hidden": "project_to_hidden",
        "project_from_hidden": "project_from_hidden",
        "up_block": "up_block",
    }
    names = [*blocks.values(), *plain.values(), "embed"]
    seen = captured(case, names, case.cond("cond", "timestep"))
    found = {name: seen[module] for name, module in plain.items()}
    found["embed"] = as_pixels(seen["embed"], case.grid)
    for name, module in blocks.items():
        text, image = seen[module]
        if name.startswith("mm"):
            found |= {f"{name}_txt": text, f"{name}_img": image}
        else:
            found[name] = torch.cat([text, image], dim=1)
    table = rotary_table(
        case.backbone.axes, case.backbone.inner_grid, len(case.io["txt_ids"]), torch.device("cpu")
    )
    found["rope_cos"], found["rope_sin"] = table
    recorded = {
        name.removeprefix("mid."): value
        for name, value in case.io.items()
        if name.startswith("mid.")
    }
    assert found.keys() == recorded.keys()
    for name, expected in recorded.items():
        assert_close(found[name], expected, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def check_embedding_noise(case):
    """Noise that is mixed into what the token embedding puts out."""
    sigma = case.io["embed_noise_sigma"].item()
    noise = case.io["embed_noise"].flatten(2).transpose(1, 2)
    noisy = sigma * noise + (1 - sigma**2) ** 0.5 * case.backbone.embed(case.tokens)
    assert_close(
        case.logits(noisy, case.cond()), rows_of(case.io["logits_embed_noise"]), **TOLERANCE
    )


def ends_of(temperature):
    """First and last temperature: of a single number, diffusers makes its own end."""
    return (temperature, 0.01) if isinstance(temperature, int | float) else temperature


def check_plan(plan, schedules, told=None):
    """Steps against the recorded schedules of the published scheduler, and its counts.

    `told` is where the times are that the network is told, if it is told any.
    """
    for schedule in schedules["schedules"]:
        steps = schedule["num_inference_steps"]
        ratios = torch.tensor(schedule["mask_ratio"])
        name, (start, end) = schedule["masking_schedule"], ends_of(schedule["temperature_arg"])
        u = torch.arange(1, steps + 1) / steps
        ours = SCHEDULES["cosine"](u) if name == "cosine" else SCHEDULES["linear"](1 - u)
        assert_close(ours, ratios, atol=1e-6, rtol=0)
        for length, counts in schedule["seq"].items():
            if steps > int(length):  # refused: upstream would repeat steps that reveal nothing
                continue
            masked = masked_counts(ours, int(length))
            assert masked == counts["masked_after_step"]
            before = [int(length), *masked[:-1]]
            assert counts["unmasked_in_step"] == [
                b - a for b, a in zip(before, masked, strict=True)
            ]
            if name != "cosine":  # the checkpoints all use the cosine
                continue
            made = plan(steps, int(length), 7.0, start - end)
            assert [step.masked_after for step in made] == masked
            assert {step.guidance for step in made} == {7.0}
            noises = end + torch.tensor([step.choice_noise for step in made])
            assert_close(noises, torch.tensor(schedule["temperatures"]), atol=1e-6, rtol=0)
            times = [step.time for step in made]
            assert times == ([pytest.approx(t) for t in schedule[told]] if told else [None] * steps)


def check_counts_of_diffusers(plan, generator):
    """The plan leaves as many tokens masked as diffusers' scheduler does in a run of its own."""
    codes, mask_id = 11, 12
    for steps, length in ((1, 16), (2, 16), (5, 30), (12, 64), (17, 256), (30, 30)):
        scheduler = AmusedScheduler(mask_id)
        scheduler.set_timesteps(steps, temperature=(2, 0))
        sample = torch.full((1, length), mask_id)
        counts = []
        for timestep in scheduler.timesteps:
            logits = torch.randn(1, length, codes, generator=generator)
            sample = scheduler.step(logits, timestep, sample, generator=generator).prev_sample
            counts.append(int((sample == mask_id).sum()))
        assert [step.masked_after for step in plan(steps, length, 1.0, 2.0)] == counts


def check_recorded_step(plan, schedules, step_io):
    """One step of the published scheduler from its recorded draws."""
    example, mask_id = schedules["example_step"], schedules["mask_token_id"]
    steps, (start, end) = example["num_inference_steps"], ends_of(example["temperature_arg"])
    index = steps - 1 - example["timestep"]
    tokens = step_io["sample"].flatten(1)
    length = tokens.shape[1]
    masked, drawn = tokens == mask_id, step_io["pred_original_sample"].flatten(1)
    step: Step = plan(steps, length, 1.0, start - end)[index]
    noise = end + torch.tensor([step.choice_noise])
    assert_close(noise, step_io["temperature"], atol=1e-6, rtol=0)
    # The plan is for a start from masks alone, where it may have to reveal more than the cosine
    # says so that each step reveals something. The recorded sample came from elsewhere.
    wanted = int(torch.floor(length * SCHEDULES["cosine"](torch.tensor(index + 1) / steps)))
    assert step.masked_after <= max(1, wanted)

    logits = as_rows(step_io["logits"])
    log_probs = token_scores(logits, drawn, step)
    recorded = step_io["selected_probs"]
    assert_close(log_probs.exp()[masked], recorded[masked], atol=1e-6, rtol=1e-5)
    assert (recorded[~masked] == torch.finfo(recorded.dtype).max).all()
    scores = log_probs + noise * step_io["gumbel"]
    for row in range(len(tokens)):
        inputs = (tokens[[row]], masked[[row]], drawn[[row]], scores[[row]])
        last, none_masked = reveal(*inputs, 0, mask_id)
        assert torch.equal(last, drawn[[row]])
        assert not none_masked.any()
        if not masked[row].any():  # no sampler gets there; diffusers would mask a token again
            continue
        count = max(1, min(wanted, int(masked[row].sum()) - 1))
        assert count == step_io["mask_len"][row].item()
        after, still_masked = reveal(*inputs, count, mask_id)
        assert torch.equal(still_masked, step_io["masking"][[row]])
        assert torch.equal(after, step_io["prev_sample"][[row]].flatten(1))
