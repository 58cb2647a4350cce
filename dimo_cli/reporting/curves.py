"""Which numbers of log.jsonl belong into which chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dimo_cli.console.live import SHOWN
from dimo_cli.reporting.charts import Chart, Level, Point, Series
from dimo_cli.run_folder.nats import KEY as KL
from dimo_cli.specs.metrics import TITLES

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Topic:
    """A chart that is drawn where the log has its numbers."""

    title: str
    names: Mapping[str, str]
    """Keys of the log and what they are called."""
    about: str = ""


def metric_chart(metric: str) -> str:
    """The title of the chart of a run's metric."""
    return f"{TITLES[metric]} of the student"


KL_CHART = "KL of the student to the teacher, nats per token"

TOPICS = (
    *(
        Topic(metric_chart(name), {name: title}, f"healthy: {SHOWN[name][1]}")
        for name, title in TITLES.items()
    ),
    Topic(
        "Divergence", {"divergence": "teacher | auxiliary"}, f"healthy: {SHOWN['divergence'][1]}"
    ),
    Topic(
        KL_CHART,
        {KL: "less the auxiliary's excess"},
        "how much of what the student draws the teacher would not, by its own auxiliary: a lower "
        f"bound as far as that lags behind; healthy: {SHOWN[KL][1]}",
    ),
    Topic(
        "Auxiliary and student",
        {
            "auxiliary_loss": "auxiliary loss",
            "entropy": "student entropy",
            "auxiliary_gap": "the gap between them",
        },
        f"healthy: gap {SHOWN['auxiliary_gap'][1]}; entropy {SHOWN['entropy'][1]}",
    ),
    Topic(
        "Student's top-1 probability", {"top1": "top-1 probability"}, f"healthy: {SHOWN['top1'][1]}"
    ),
    Topic(
        "Gradient norms",
        {"student_gradient": "student", "auxiliary_gradient": "auxiliary"},
        "before clipping",
    ),
    Topic(
        "Adversarial losses",
        {"gan_loss": "student", "discriminator_loss": "discriminator"},
        "healthy: neither wins for long",
    ),
    Topic(
        "What the discriminator says",
        {"real_logit": "of real images", "fake_logit": "of generated ones"},
        "healthy: apart, but not ever further apart",
    ),
    Topic("Weight of the adversarial loss", {"gan_weight": "weight"}, "set automatically"),
    Topic(
        "Di-Bregman weights of samples",
        {"bregman_weight": "mean, divided out", "bregman_effective_share": "effective share"},
        "healthy: the share stays well above 0, or few samples decide all",
    ),
    Topic("Reward loss", {"reward_loss": "loss"}, "healthy: falls"),
    Topic(
        "Held-out reward",
        {"held_out_reward": "reward"},
        "healthy: does not fall while rewards rise",
    ),
    Topic(
        "Diversity within a prompt",
        {"diversity": "distance"},
        "healthy: stays about where it started",
    ),
    Topic(
        "Gradient norms at the logits",
        {
            "distill_norm": "Di[M]O",
            "weighted_gan_norm": "adversarial",
            "weighted_reward_norm": "rewards",
        },
        "running averages, each with its weight",
    ),
    Topic(
        "Gradient norms over Di[M]O's",
        {"gan_ratio": "adversarial", "reward_ratio": "rewards"},
        "with their weights; healthy: of one order",
    ),
    Topic(
        "Gradient norms without weights",
        {"gan_norm": "adversarial", "reward_norm": "rewards"},
        "running averages",
    ),
    Topic("Throughput", {"images_per_second": "images per second"}, "healthy: steady"),
    Topic("Peak memory", {"peak_memory_gib": "GiB so far"}),
    Topic("Trouble", {"skipped": "skipped steps", "rollbacks": "rollbacks"}, "healthy: stays at 0"),
)
COUNTERS = ("skipped", "rollbacks")  # no chart where nothing happened


def charts_of(
    records: Sequence[Record],
    levels: Mapping[str, Sequence[Level]],
    abouts: Mapping[str, str],
) -> list[Chart]:
    """Every number of the log in a chart; what no topic knows gets one of its own.

    `levels` are lines to compare with and `abouts` more to say, by the title of the chart.
    """
    keys = dict.fromkeys(key for record in records for key in record if key != "step")
    topics = [*TOPICS, *own_topics(list(keys))]
    charts = []
    for topic in topics:
        series = [Series(name, points_of(records, key)) for key, name in topic.names.items()]
        series = [one for one in series if one.finite]
        quiet = set(topic.names) <= set(COUNTERS) and not any(
            y for s in series for _, y in s.finite
        )
        if series and not quiet:
            about = "; ".join(filter(None, (topic.about, abouts.get(topic.title))))
            charts.append(Chart(topic.title, series, about, levels.get(topic.title, ())))
    return charts


def own_topics(keys: Sequence[str]) -> list[Topic]:
    """A topic for each key that is in none."""
    known = {key for topic in TOPICS for key in topic.names}
    found = []
    for key in keys:
        if key in known:
            continue
        words = key.replace("_", " ")
        about = "healthy: rises" if key.startswith("reward_") else ""
        title = f"Reward: {key.removeprefix('reward_')}" if about else words.capitalize()
        found.append(Topic(title, {key: words}, about))
    return found


def points_of(records: Sequence[Record], key: str) -> list[Point]:
    """A number by step; null in the log is a value that was not finite."""
    found: list[Point] = []
    for record in records:
        if key in record:
            value = record[key]
            found.append((record["step"], None if value is None else float(value)))
    return found
