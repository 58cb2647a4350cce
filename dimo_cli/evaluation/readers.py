"""What an evaluation needs for its numbers: networks, the metrics on each, and real images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dimo_cli.data.arrays import Images
from dimo_cli.data.folders import open_images
from dimo_cli.data.pictures import Fit
from dimo_cli.errors import MissingError, SpecError
from dimo_cli.evaluation.gates import check_conventions
from dimo_cli.evaluation.subjects import Subject, content_hash
from dimo_cli.hub.store import HubStore
from dimo_cli.metrics.clip_score import load_clip_score
from dimo_cli.metrics.emoji_reader import load_emoji
from dimo_cli.metrics.emoji_truth import EmojiTruth
from dimo_cli.metrics.fid import Fid
from dimo_cli.metrics.geneval import GenEval, ShapesGenEval
from dimo_cli.metrics.geneval_detector import load_detector
from dimo_cli.metrics.inception_score import InceptionScore
from dimo_cli.metrics.kernel import Kid
from dimo_cli.metrics.manifold import (
    FeatureBank,
    PrecisionRecall,
    manifold_bytes,
    short_count,
)
from dimo_cli.metrics.networks import NetworkSource, check_of_inception, load_network
from dimo_cli.metrics.preferences import load_reward_score
from dimo_cli.metrics.protocol import FeatureNetwork, Metric
from dimo_cli.metrics.references import (
    Reference,
    build_reference,
    builtin_features,
    builtin_reference,
    network_facts,
    read_reference,
    spread,
)
from dimo_cli.specs.evaluate import EvalSpec, MetricName
from dimo_cli.specs.metrics import NEIGHBORS

KEPT_FEATURES = 10_000  # of a reference folder, for metrics that compare neighbors
ON_FEATURES: tuple[MetricName, ...] = ("fid", "kid", "is", "pr")
COUNTED = ("fid", "kid", "is", "fdd")  # their names end in the number of images
REWARDS: Mapping[MetricName, str] = {
    "hps": "hps_v2.1",
    "image_reward": "image_reward",
    "pickscore": "pickscore",
}
# What the embedded worlds have in the place of a reward of photographs.
OF_WORLDS: Mapping[str, Mapping[MetricName, str]] = {
    world: {"clip": f"{world}_clip", "image_reward": f"{world}_preference"}
    for world in ("shapes", "emoji")
}
SUITED: Mapping[str, tuple[MetricName, ...]] = {
    "digits": ON_FEATURES,
    "shapes": (*ON_FEATURES, "clip", "image_reward", "geneval"),
    "emoji": (*ON_FEATURES, "clip", "image_reward", "emoji"),
}
REPEATING = ("shapes",)  # of 10,000 real pictures, every second one is a copy
Readers = list[tuple[FeatureNetwork | None, list[Metric]]]
Say = Callable[[str], None]


def build_readers(
    names: Sequence[MetricName], subject: Subject, spec: EvalSpec, store: HubStore, say: Say
) -> tuple[Readers, list[str]]:
    """The networks and the metrics that read each of them, and what to say beside the numbers."""
    count = len(subject.images)
    notes: list[str] = []
    readers: Readers = []
    check_built_in(names, subject, spec)
    check_conventions((*spec.maximum, *spec.minimum), told_as(names, count, spec.neighbors))
    wanted = [name for name in names if name in ON_FEATURES]
    if wanted:
        network = feature_network(subject, spec, store, say)
        metrics: list[Metric] = []
        if set(wanted) - {"is"}:
            needs = bool({"kid", "pr"} & set(wanted))
            reference = find_reference(network, subject, spec, needs, say)
            notes += reference.warnings
            if "fid" in wanted:
                metrics.append(Fid(reference, network))
            if needs:
                assert reference.features is not None
                facts = {**reference.identity(), "network": network_facts(network)}
                bank = FeatureBank(count, network.dimensions, facts)
                if "kid" in wanted:
                    metrics.append(Kid(reference.features, bank))
                if "pr" in wanted:
                    metrics.append(precision_recall(reference.features, bank, subject, spec, say))
        readers.append((network, metrics))
        if "is" in wanted:
            seen = {"network": network_facts(network)}
            metrics.append(InceptionScore(FeatureBank(count, classes_of(network), seen)))
    if "fdd" in names:
        dinov2 = load_network("dinov2", NetworkSource(store=store, say=say), subject.device)
        reference = find_reference(dinov2, subject, spec, False, say)
        notes += reference.warnings
        readers.append((dinov2, [Fid(reference, dinov2, "fdd")]))
    others = [prompt_metric(name, subject, store) for name in names if reads_prompts(name)]
    if others:
        readers.append((None, others))
    return readers, notes


def told_as(names: Sequence[MetricName], images: int, k: int) -> list[str]:
    """The full names of the numbers whose names tell how they are measured."""
    counted = [f"{name}{short_count(images)}" for name in COUNTED if name in names]
    return counted + [f"{name}_k{k}" for name in NEIGHBORS if "pr" in names]


def precision_recall(
    real: Tensor, bank: FeatureBank, subject: Subject, spec: EvalSpec, say: Say
) -> PrecisionRecall:
    """The metric of neighbors among these real features.

    A picture that is there four times has no room around it: where a world's pictures repeat, each
    counts once, and a copy of it is inside.
    """
    repeats = world_of(subject, spec) in REPEATING
    real = torch.unique(real, dim=0) if repeats else real
    k, known, count = spec.neighbors, len(real), len(subject.images)
    most = manifold_bytes(known, count, bank.dimensions, k=k) / 2**30
    say(f"Neighbors among {known:,} and {count:,} images: {most:.2f} GiB at most.")
    return PrecisionRecall(real, bank, k=k, closed=repeats, device=subject.device)


def reads_prompts(name: MetricName) -> bool:
    """Whether a metric compares images with their prompts."""
    return name not in (*ON_FEATURES, "fdd")


def feature_network(subject: Subject, spec: EvalSpec, store: HubStore, say: Say) -> FeatureNetwork:
    """The network of FID and its kin."""
    name = spec.features or world_of(subject, spec) or "inception"
    check_of_inception([name], {"--resize": spec.resize, "--inception": spec.inception})
    default = "clean" if subject.takes_prompts else "legacy_tensorflow"
    source = NetworkSource(
        resize=spec.resize or default,
        inception=Path(spec.inception).expanduser() if spec.inception else None,
        download=True,
        store=store,
        say=say,
    )
    return load_network(name, source, subject.device)


def check_built_in(names: Sequence[MetricName], subject: Subject, spec: EvalSpec) -> None:
    """Refuse a built-in reference for another network than its world's own, before it is loaded."""
    world = world_of(subject, spec)
    if world is None or spec.reference not in (None, world):
        return
    compares = bool({"fid", "kid", "pr"} & set(names))
    other = "dinov2" if "fdd" in names else spec.features if compares else None
    if other not in (None, world):
        raise SpecError(
            f"The built-in reference of `{world}` has the features of its own network, which do "
            f"not compare with those of `{other}`.",
            "Name real images with `--ref FOLDER`, or measure FID, KID and PR without "
            "`--features`.",
        )


def world_of(subject: Subject, spec: EvalSpec) -> str | None:
    """The embedded world that a feature network and real images are of, if they are of one."""
    named = spec.reference if spec.reference in SUITED else subject.domain
    return named if named in SUITED else None


def classes_of(network: FeatureNetwork) -> int:
    """How many classes a network tells apart."""
    if network.classes is None:
        raise SpecError(
            f"`{network.name}` has no classes, which the Inception Score needs.",
            "Use `--features inception`.",
        )
    return network.classes


def prompt_metric(name: MetricName, subject: Subject, store: HubStore) -> Metric:
    """A metric that reads prompts, with its network."""
    if not subject.takes_prompts or not (subject.prompts or subject.images.prompts):
        raise SpecError(
            f"`{name}` compares images with prompts, and these have none.",
            "Add `--prompts FILE`, or put a captions.txt beside the images.",
        )
    if name == "geneval":
        return geneval(subject, store)
    if name == "emoji":
        return emoji_truth(subject)
    judge = judge_of(name, subject.domain)
    if judge is None:
        return load_clip_score(store, subject.device)
    prompts = subject.prompts if judge in REWARDS.values() else None
    return load_reward_score(judge, store, subject.device, prompts)


def judge_of(name: MetricName, domain: str) -> str | None:
    """The reward whose mean a metric is; None for one that is of no reward."""
    return OF_WORLDS.get(domain, {}).get(name) or REWARDS.get(name)


def geneval(subject: Subject, store: HubStore) -> Metric:
    """The six tasks, read exactly on `shapes` and by a detector elsewhere."""
    if subject.prompts is None or not subject.prompts.requests:
        raise SpecError(
            "GenEval needs its own prompts.", "Add `--prompts geneval=evaluation_metadata.jsonl`."
        )
    if subject.prompts.name == "shapes":
        return ShapesGenEval(subject.prompts)
    return GenEval(load_detector(store, subject.device), subject.prompts)


def emoji_truth(subject: Subject) -> Metric:
    """What the prompts of `emoji` ask for, read off pictures by its network."""
    if subject.prompts is None or subject.prompts.name != "emoji":
        raise SpecError("`emoji` needs its own prompts.", "Add `--prompts emoji`.")
    return EmojiTruth(subject.prompts, load_emoji().to(subject.device))


def find_reference(
    network: FeatureNetwork, subject: Subject, spec: EvalSpec, needs_features: bool, say: Say
) -> Reference:
    """Real images as this network sees them: given, or what ships with the teacher."""
    world = world_of(subject, spec)
    if spec.reference in (None, world):
        if world is None:
            raise MissingError(
                f"There is no built-in reference for {subject.domain}.",
                "Name one: `--ref FILE.npz` (ADM, clean-fid or EDM2 statistics, or made by "
                "`dimo eval ref build`), or `--ref FOLDER` of real images.",
            )
        reference = builtin_reference(world)
        if needs_features:
            reference = replace(reference, features=builtin_features(world, network))
        return reference
    path = Path(str(spec.reference)).expanduser()
    if path.is_dir() or path.suffix.lower() == ".zip":
        fit = Fit("lanczos", spec.crop) if spec.crop else None
        images = open_images(path, fit=fit)
        made = from_images(images, network, path.name, needs_features, say)
        return replace(made, sha256=content_hash(path))
    reference = read_reference(path, network)
    if not needs_features or reference.features is not None:
        return reference
    if reference.images is None:
        raise SpecError(
            f"`{path}` has statistics alone: KID and precision/recall need features or images.",
            "Build a reference that keeps them with `dimo eval ref build FOLDER --keep 10000`.",
        )
    kept = from_images(reference.images, network, path.name, True, say)
    return replace(reference, features=kept.features)


def from_images(
    images: Images, network: FeatureNetwork, name: str, needs_features: bool, say: Say
) -> Reference:
    """A reference that is made on the spot."""
    say(f"Reading {len(images):,} reference images.")
    kept = spread(len(images), KEPT_FEATURES) if needs_features else ()
    with torch.inference_mode():
        (reference,) = build_reference(images.batches(64), [network], {}, kept)
    return replace(reference, name=name, warnings=(*reference.warnings, *images.notes()))
