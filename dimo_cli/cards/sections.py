"""The sections of a model card, in the order in which they are read."""

from __future__ import annotations

from typing import Any

from dimo_cli.cards.citations import DIMO, SOFT_DIMO, TEACHERS
from dimo_cli.cards.facts import CardFacts, Measured
from dimo_cli.cards.markdown import block, code, link, words
from dimo_cli.run_folder.effort import Effort
from dimo_cli.specs.manifest import Choice, steps_in_words
from dimo_cli.specs.metrics import title_of


def introduction(facts: CardFacts) -> str:
    """What it is, in a paragraph."""
    teacher, size = facts.manifest.teacher, facts.image_size
    asked = "a prompt" if facts.takes_prompts else "a class"
    named = code(teacher.name)
    if facts.base_model:
        named = link(named, f"https://huggingface.co/{facts.base_model}")
    counts = facts.manifest.step_counts
    kind, passes = "one-step generator", "a single network pass"
    if counts != (1,):
        kind, passes = "generator", f"{steps_in_words(counts)}, a network pass each,"
    return (
        f"# {words(facts.name)}\n\n"
        f"A {kind} of {size}x{size} images for {asked}, with {facts.parameters:,} "
        f"parameters. It was distilled from the masked diffusion model {named} with "
        f"{words(facts.manifest.training.method)} and draws in {passes} what its "
        "teacher fills in over many.\n\n![A grid of samples](preview.png)"
    )


def use(facts: CardFacts) -> str:
    """The one-liners."""
    place = facts.repository or "."
    if isinstance(facts.example, str):
        flag, call = f'--prompt "{facts.example}"', f'("{facts.example}")'
    else:
        flag, call = f"--class {facts.example}", f"(class_labels=[{facts.example}])"
    return (
        "## Use\n\nWith the package `dimo-cli` installed:\n\n```sh\n"
        f"dimo sample --student {place} {flag} --grid samples.png\n```\n\n"
        "```python\nfrom dimo_cli import OneStepPipeline\n\n"
        f'image = OneStepPipeline.from_pretrained("{place}"){call}.images[0]\n```'
    )


def evaluation(facts: CardFacts) -> str:
    """The numbers, each with its protocol, and the run's closing table."""
    parts = []
    if facts.measured:
        lines = [
            f"| {words(n.metric)} | {n.value:.4g} | {protocol_text(n)} |" for n in facts.measured
        ]
        parts.append("| metric | value | measured with |\n|---|---|---|\n" + "\n".join(lines))
    if facts.rows:
        lines = [
            f"| {words(row.sampler)} | {words(row.metric)} | {row.value:.4g} |"
            for row in facts.rows
        ]
        parts.append(
            "Beside its teacher, all under the same protocol:\n\n| sampler | metric | value |\n"
            "|---|---|---|\n" + "\n".join(lines)
        )
    if facts.teacher_kl is not None:
        parts.append(f"KL to its teacher: {facts.teacher_kl.words}. {KL_TEXT}")
    if not (facts.measured or facts.rows):
        return "## Evaluation\n\n" + parts[0] if parts else ""
    parts.append("A number compares only with one of the same protocol.")
    return "## Evaluation\n\n" + "\n\n".join(parts)


KL_TEXT = (
    "It is the reverse KL of the tokens drawn in training to those of the teacher as it was "
    "distilled, guidance included: 0 is the teacher's own law. The auxiliary network stands for "
    "the student in it, so what that had not learned yet is missing: it is a lower bound."
)


def protocol_text(number: Measured) -> str:
    """A protocol for a cell of a table."""
    return ", ".join(words(f"{key} {text}") for key, text in number.protocol.items())


def training(facts: CardFacts) -> str:
    """How it was made: settings, hardware, hours, emissions."""
    manifest, made = facts.manifest, facts.manifest.training
    divergence = made.divergence.model_dump() if made.divergence else {}
    noise = manifest.init.embed_noise.model_dump()
    rows = {
        "teacher": f"{code(manifest.teacher.name)}, revision {code(manifest.teacher.revision)}",
        "method": words(made.method),
        "divergence": words(", ".join(str(value) for value in divergence.values())),
        "steps": made.steps and f"{made.steps:,}",
        "weights": manifest.chosen and words(choice_text(manifest.chosen)),
        "generated samples": made.samples and f"{made.samples:,}",
        "seed": made.seed,
        "share of masks in x_init": settings_text(manifest.init.mask_ratio.model_dump()),
        "noise on x_init": settings_text(noise),
        "steps of an image": steps_text(facts),
        "noise beside x_init": noise_text(facts),
        "sampling temperature": f"{manifest.temperature:g}",
        "adapters": lora_text(facts),
        "hardware": facts.effort and facts.effort.hardware and words(facts.effort.hardware),
        "time": facts.effort and time_text(facts.effort),
        "emissions": emissions_text(facts),
    }
    lines = [f"| {name} | {text} |" for name, text in rows.items() if text not in (None, "")]
    table = "| | |\n|---|---|\n" + "\n".join(lines)
    text = f"## Training\n\n{data_text(made.method)}\n\n{table}"
    if facts.spec_yaml:
        text += (
            "\n\n<details><summary>Every setting of the run</summary>\n\n"
            f"{block(facts.spec_yaml.strip(), 'yaml')}\n\n</details>"
        )
    return text


def steps_text(facts: CardFacts) -> str | None:
    """In how many steps it draws, where there is more than one; the most of them are its own."""
    counts = facts.manifest.step_counts
    if counts == (1,):
        return None
    own = f"; {max(counts)} unless `--steps` says otherwise" if len(counts) > 1 else ""
    return ", ".join(map(str, counts)) + own


def noise_text(facts: CardFacts) -> str | None:
    """What the student hears beside its tokens, where it does."""
    noise = facts.manifest.init.noise
    if noise is None:
        return None
    size = f" of {noise.dim} numbers" if noise.dim else ""
    where = "each mask" if noise.kind == "mask" else "each image"
    return f"one noise vector{size} for {where} ({noise.law}), through a network of its own"


def lora_text(facts: CardFacts) -> str | None:
    """What of it is its own, where that is adapters alone."""
    lora = facts.manifest.lora
    if lora is None:
        return None
    return f"LoRA of rank {lora.rank} (alpha {lora.alpha:g}) beside the teacher's weights"


def choice_text(chosen: Choice) -> str:
    """By what rule these weights are those of the student."""
    step = f"step {chosen.step:,}"
    if chosen.rule == "average":
        rule = (
            f"the average of length {chosen.length:g} (sigma_rel) up to {step}, put together from "
            f"{chosen.snapshots} snapshots after the run"
        )
    else:
        rule = {
            "last": f"the average at the run's last step, {chosen.step:,}",
            "best": f"the average at {step}, the best checkpoint of the run",
            "step": f"the average at {step}, which was named by hand",
        }[chosen.rule]
    if chosen.metric is None or chosen.value is None:
        return rule
    of = f" of {chosen.images:,} images" if chosen.images else ""
    verb = ", chosen" if chosen.rule == "average" else ""
    return f"{rule}{verb} by {title_of(chosen.metric)}: {chosen.value:.4g}{of}"


def data_text(method: str) -> str:
    """What it has seen, as far as the last training goes."""
    if "GAN" in method:
        return "It learned from its teacher's predictions, and against real images."
    if method.startswith("Soft"):
        rewards = " and from reward models" if "reward" in method else ""
        return (
            f"It goes on from an earlier student and learned from its teacher's predictions"
            f"{rewards}; this training used no images."
        )
    return "It learned from its teacher's predictions alone: no images were used."


def settings_text(values: dict[str, Any]) -> str:
    """A group of settings in a few words."""
    kind, *rest = [f"{v:g}" if isinstance(v, float) else str(v) for v in values.values()]
    return ", ".join(rest) if kind == "fixed" else " ".join([kind, *rest])


def time_text(effort: Effort) -> str:
    """Hours, or minutes where it was quick."""
    time = f"{effort.hours:.1f} hours" if effort.hours >= 1 else f"{effort.hours * 60:.1f} minutes"
    return time if effort.is_complete else f"at least {time} (a part of the run left no record)"


def emissions_text(facts: CardFacts) -> str | None:
    """The estimate with its assumptions."""
    if facts.emissions is None or facts.effort is None:
        return None
    grams, assumed = facts.emissions, facts.footprint
    mass = f"{grams / 1000:.3g} kg" if grams >= 1000 else f"{grams:.3g} g"
    bound = "" if facts.effort.is_complete else "at least "
    return (
        f"{bound}about {mass} CO2eq: the time above x {assumed.watts:g} W (assumed, all devices) "
        f"x {assumed.grid_intensity:g} g CO2eq per kWh (assumed); cooling and making the hardware "
        "are not counted"
    )


VARIETY = (
    "The random tokens of its input are its only source of variety. Changing their share "
    "changes how varied and how clean the images are."
)
VARIETY_BY_NOISE = (
    "The noise and the random tokens of its input are its only source of variety. Changing their "
    "share changes how varied and how clean the images are."
)


def limits(facts: CardFacts) -> str:
    """What it cannot do, after the papers' own account of their method."""
    method = facts.manifest.training.method
    points = [
        "It knows what its teacher knows: the teacher's errors and its biases in what and whom it "
        "shows came along, and a weak teacher makes a weak student.",
        "Some subjects come out with shifted colors or all alike where the teacher shows more "
        "variety. Draw several seeds before you judge one.",
        f"It draws {facts.image_size}x{facts.image_size} and nothing else, and no better than "
        "its teacher's tokenizer can rebuild an image: fine structure is lost there.",
    ]
    if facts.manifest.step_counts == (1,):
        points.append(VARIETY if facts.manifest.init.noise is None else VARIETY_BY_NOISE)
    if facts.takes_prompts:
        points.append(
            "It follows prompts about as well as its teacher: counts, positions, writing and rare "
            "combinations go wrong."
        )
    if "reward" in method:
        points.append(
            "It was tuned to please reward models. They share one taste, so for some prompts the "
            "images are less varied than before the tuning, and a high reward is no proof of truth."
        )
    if "GAN" in method:
        points.append(
            "Its real images shaped it as well: what is rare or skewed in them is so in it."
        )
    points.append(
        "Distances of feature statistics, such as FID, measure likeness to a reference; for a "
        "teacher with a style of its own they say little about quality."
    )
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


MISUSE = (
    "## Misuse\n\n"
    "An image costs next to nothing here, which makes deception cheap as well. Do not use it to "
    "show real people or events as they were not, to harass or degrade, to get around consent, or "
    "as evidence of anything. It has no safety filter and no watermark: whoever puts it before "
    "others has to add what the use demands, and to say that the images are generated. `dimo` "
    "writes into each PNG what made it, but that text is easily removed."
)


def license_text(facts: CardFacts) -> str:
    """The teacher's license, which is the student's."""
    terms = facts.license
    name = terms.name or terms.id
    teacher = code(facts.manifest.teacher.name)
    return f"## License\n\n{code(name)}, as the teacher {teacher}. {terms.sentence}"


def citation(facts: CardFacts) -> str:
    """Whom to cite: the method's papers and the teacher's."""
    works = [DIMO, SOFT_DIMO, *TEACHERS.get(facts.manifest.teacher.family, ())]
    entries = "\n\n".join(work.bibtex() for work in works)
    manifest = facts.manifest
    return (
        f"## Citation\n\n```bibtex\n{entries}\n```\n\n"
        f"Weights sha256 `{manifest.weights_sha256}`, made by dimo {words(manifest.dimo_version)}."
    )
