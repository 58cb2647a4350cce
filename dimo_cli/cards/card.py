"""The model card of a student: front matter for the Hub, and what a person has to know."""

from __future__ import annotations

from typing import Any

from dimo_cli.cards import sections
from dimo_cli.cards.facts import CardFacts, Measured
from dimo_cli.console.plain import one_line, visible
from dimo_cli.redacting import without_secrets


def student_card(facts: CardFacts) -> str:
    """The whole README.md."""
    parts = (
        f"---\n{front_matter(facts)}\n---",
        sections.introduction(facts),
        sections.use(facts),
        sections.evaluation(facts),
        sections.training(facts),
        sections.limits(facts),
        sections.MISUSE,
        sections.license_text(facts),
        sections.citation(facts),
    )
    return visible(without_secrets("\n\n".join(part for part in parts if part) + "\n"))


def front_matter(facts: CardFacts) -> str:
    """The metadata that the Hub reads."""
    from huggingface_hub import ModelCardData

    manifest, terms = facts.manifest, facts.license
    extra: dict[str, Any] = {}
    if facts.base_model:
        # All weights start from the teacher's, or stay as they are there.
        extra["base_model_relation"] = "adapter" if manifest.lora else "finetune"
    if facts.emissions is not None and facts.effort is not None:
        extra["co2_eq_emissions"] = {
            "emissions": float(f"{facts.emissions:.3g}"),
            "source": "estimate: hours x assumed watts x assumed grid intensity",
            "training_type": "fine-tuning",
            "hardware_used": one_line(facts.effort.hardware or "") or None,
        }
    condition = "text-to-image" if facts.takes_prompts else "class-conditional"
    kind = "one-step" if manifest.step_counts == (1,) else "few-step"
    tags = ["dimo", kind, "masked-diffusion", "distillation", condition]
    tags += ["lora", "peft"] if manifest.lora else []
    family = one_line(manifest.teacher.family)
    data = ModelCardData(
        license=terms.id,
        license_name=terms.name and one_line(terms.name),
        license_link=terms.link,
        library_name="dimo",
        pipeline_tag=facts.task,
        base_model=facts.base_model,
        tags=[*tags, *([family] if family not in tags else [])],
        model_name=facts.name if facts.measured else None,
        eval_results=[eval_result(facts, number) for number in facts.measured] or None,
        **extra,
    )
    return data.to_yaml()


def eval_result(facts: CardFacts, number: Measured) -> Any:
    """A number as the Hub's model-index has it."""
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=facts.task,
        dataset_type=one_line(number.reference).lower().replace(" ", "-"),
        dataset_name=one_line(number.reference),
        metric_type=one_line(number.kind),
        metric_name=one_line(number.title),
        metric_value=float(f"{number.value:.6g}"),
        metric_args={one_line(key): one_line(text) for key, text in number.protocol.items()},
    )
