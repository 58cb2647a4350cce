"""The page of `dimo tteo`: prompts before and after, ready for the template."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from dimo_cli.reporting.charts import number
from dimo_cli.reporting.diagnosis import Finding
from dimo_cli.reporting.optimized import PromptRecord, TteoRecord, collect_tteo
from dimo_cli.reporting.pictures import Picture
from dimo_cli.reporting.views import Card, plot_of

MOST_SHOWN, MOST_ROWS, MOST_BUDGETS = 40, 1000, 3
SECTIONS = (
    ("health", "Health"),
    ("prompts", "Prompts"),
    ("spec", "What was run"),
    ("words", "The words"),
)


def tteo_view(folder: Path) -> dict[str, Any]:
    """Everything that the template of optimized prompts shows."""
    found = collect_tteo(folder)
    return {
        "title": f"{found.name}: report of dimo tteo",
        "heading": found.name,
        "lead": "Test-time optimization: the input embeddings of a one-step student, made better "
        "for each prompt.",
        "sections": SECTIONS,
        "cards": cards_of(found.prompts),
        "findings": [
            *(Finding("warning", text) for text in found.damaged),
            *(Finding("note", text) for text in found.missing),
        ],
        "overview": overview(found.prompts),
        "prompts": [prompt_view(item, i) for i, item in enumerate(found.prompts[:MOST_SHOWN])],
        "prompts_left_out": max(0, len(found.prompts) - MOST_SHOWN),
        "settings": setting_groups(found),
    }


def cards_of(prompts: list[PromptRecord]) -> list[Card]:
    """The numbers to see first."""
    if not prompts:
        return []
    outcomes = [item.outcome for item in prompts]
    before, best, after = (
        mean(outcome[key] for outcome in outcomes)
        for key in ("score_before", "score_best_of_n", "score_after")
    )
    budgets = {(len(o["trace"][0]), len(o["trace"]) - 1) for o in outcomes}
    budget = ", ".join(f"{starts} × {iterations}" for starts, iterations in sorted(budgets))
    return [
        Card("Prompts", f"{len(prompts):,}"),
        Card("Mean score", number(round(after, 4)), f"before: {number(round(before, 4))}"),
        Card("Best of the starts", number(round(best, 4)), "mean score without optimization"),
        Card(
            "Budget",
            budget if len(budgets) <= MOST_BUDGETS else f"{len(budgets)} different",
            "starts × iterations" + (", by prompt" if len(budgets) > 1 else ""),
        ),
        Card("Time", f"{mean(o['seconds'] for o in outcomes):.1f} s", "per prompt, mean"),
    ]


def overview(prompts: list[PromptRecord]) -> dict[str, Any]:
    """A row per prompt."""
    keys = ("score_before", "score_best_of_n", "score_after", "seconds", "times_a_plain_sample")
    rows = [
        [item.prompt, *(told(item.outcome.get(key)) for key in keys)]
        for item in prompts[:MOST_ROWS]
    ]
    head = ["prompt", "before", "best of starts", "after", "seconds", "plain samples"]
    return {"head": head, "rows": rows, "left_out": max(0, len(prompts) - MOST_ROWS)}


def prompt_view(item: PromptRecord, index: int) -> dict[str, Any]:
    """One prompt with its pictures, rewards and curve."""
    before, after = (item.outcome.get(f"rewards_{when}", {}) for when in ("before", "after"))
    chart = item.chart()
    return {
        "prompt": item.prompt,
        "pictures": [with_score(picture, item.outcome) for picture in item.pictures],
        "rewards": [[str(name), told(before[name]), told(after.get(name))] for name in before],
        "plot": plot_of(chart, f"trace-{index}") if chart else None,
    }


def with_score(picture: Picture, outcome: dict[str, Any]) -> Picture:
    """A picture named `before` or `after`, with the score that it had then."""
    return replace(picture, title=f"{picture.title}: {told(outcome[f'score_{picture.title}'])}")


def setting_groups(found: TteoRecord) -> list[dict[str, Any]]:
    """The settings, once for all prompts that share them."""
    groups: dict[str, dict[str, Any]] = {}
    for item in found.prompts:
        if item.settings:
            key = f"{item.student}{[(one.path, one.value) for one in item.settings]}"
            title = f"Settings, student {item.student[:12]}"
            groups.setdefault(key, {"title": title, "settings": item.settings, "prompts": []})
            groups[key]["prompts"].append(item.prompt)
    if len(groups) > 1:
        for group in groups.values():
            group["title"] += f", {len(group['prompts'])} prompts"
    return list(groups.values())


def told(value: Any) -> str:
    """A number of the results, or nothing."""
    return number(round(value, 4)) if isinstance(value, (int, float)) else ""
