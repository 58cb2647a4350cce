"""What is done with a shown command in the tests. One that is of no kind is a mistake."""

import re
from enum import StrEnum
from pathlib import Path

from dimo_cli.rewards.registry import MODULES
from dimo_cli.teachers.families import FAMILIES

EMBEDDED_REWARDS = tuple(name for name in MODULES if name.startswith(("shapes_", "emoji_")))
# Metrics whose networks are published, and those that need Inception of images on disk.
NETWORK_METRICS = ("fdd", "clip", "hps", "image-reward", "pickscore", "geneval-export")
FOLDERS = ("photos", "imagenet/train")
HUB_ID = re.compile(r"^(you|lab|Yuanzhi)/[\w.-]+(/[\w-]+)?(@[\w./-]+)?$")
OTHER_TOOLS = ("hf",)
CLUSTER_TOOLS = ("sbatch", "squeue", "scancel")


class Kind(StrEnum):
    """How a shown command is tested."""

    RUNS = "really run, with few steps and images"
    PLANS = "really run with --dry-run"
    NEEDS = "run up to the first published file or network that it needs"
    REFUSED = "really run, and refused with the sentence that is shown"
    MAKES = "a target of the Makefile"
    SCRIPT = "a script of the project that a test runs"
    INSTALLS = "packages that pyproject.toml names"
    TOOL = "a command that a dependency brings along"
    LAUNCHES = "a launcher's command line that starts dimo"
    CLUSTER = "a command of Slurm, on a script that the page shows"


def kind_of(shown):
    """The kind of a command."""
    words = shown.words
    simple = {
        "make": Kind.MAKES,
        "python": Kind.SCRIPT,
        "pip": Kind.INSTALLS,
        "pipx": Kind.INSTALLS,
        "accelerate": Kind.LAUNCHES,
        "torchrun": Kind.LAUNCHES,
        **dict.fromkeys(OTHER_TOOLS, Kind.TOOL),
        **dict.fromkeys(CLUSTER_TOOLS, Kind.CLUSTER),
    }
    if words[0] in simple:
        return simple[words[0]]
    if words[0] != "dimo":
        raise ValueError(f"{shown} is of no known kind: say in tests/docs/kinds.py how to test it.")
    # A copy of a preset, on that preset's page, asks for the preset's teacher.
    meant = [Path(shown.page).stem] if "--spec" in words else []
    return Kind.REFUSED if shown.is_refused else kind_of_dimo([*words[1:], *meant])


def kind_of_dimo(words):
    """The kind of a command of dimo by what it needs."""
    name, others = words[0], words[1:]
    needs = needs_something_published(name, others)
    if name == "push":
        return Kind.NEEDS if is_published_student(others[0]) else Kind.PLANS
    if name == "arena":
        return Kind.PLANS
    if name in ("distill", "refine") and (needs or "--dry-run" in words):
        return Kind.NEEDS if any(map(HUB_ID.match, others)) else Kind.PLANS
    return Kind.NEEDS if needs else Kind.RUNS


def needs_something_published(name, words):
    """Whether a command would download, were it not for the tests."""
    if name in ("doctor", "presets", "spec"):
        return False
    of_its_own = words[:2] == ["clip", "shapes"]  # its judge ships with it
    asks_network = name == "eval" and words[0] in NETWORK_METRICS and not of_its_own
    if asks_network or (name == "eval" and any(word in FOLDERS for word in words)):
        return True
    # What follows `eval` is a metric, and no reward of the same name.
    values = [word.partition("=")[0] for word in (words[1:] if name == "eval" else words)]
    rewards = [word for word in values if word in MODULES and word not in EMBEDDED_REWARDS]
    return bool(rewards) or any(
        word in FAMILIES or is_published_student(word) or HUB_ID.match(word) or "hub:" in word
        for word in words
    )


def is_published_student(word):
    """Whether a word is a student of a published teacher, here or on the Hub."""
    folder = word.removeprefix("runs/").partition("@")[0]
    return bool(HUB_ID.match(word)) or ("runs/" in word and folder in FAMILIES)
