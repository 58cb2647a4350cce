"""The pages of presets: what each is, what it needs, and every setting of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dimo_cli.commands.plan import flops, size
from dimo_cli.hub.published import HubFile
from dimo_cli.metrics.measured import HEAD, known_of_preset
from dimo_cli.specs.render import changed_leaves, commented_yaml
from dimo_cli.specs.resolve import preset_names, preset_path, preset_summary, refine_preset_names
from dimo_cli.specs.teacher import TeacherSource
from dimo_cli.teachers.registry import EMBEDDED, blueprint_of, load_skeleton
from docs.generator.costs import Cost, read_costs, spec_of
from docs.generator.markdown import fill, table
from docs.generator.recipes import distill_recipe, refine_recipe


def preset_pages() -> Iterator[tuple[str, str]]:
    """The path and the text of every page."""
    costs = read_costs()
    for name in [*preset_names(), *refine_preset_names()]:
        yield f"presets/{name}.md", fill("preset.md", **about(name, costs[name]))


def about(name: str, cost: Cost) -> dict[str, Any]:
    """Everything that a page says."""
    spec = spec_of(name)
    teacher = spec.teacher.name
    embedded = teacher in EMBEDDED
    facts = load_skeleton(teacher) if embedded else blueprint_of(TeacherSource(name=teacher))
    refines = name in refine_preset_names()
    recipe = refine_recipe if refines else distill_recipe
    path = preset_path(name)
    return {
        "name": name,
        "summary": preset_summary(name),
        "comments": comments(name),
        "refines": refines,
        "path": f"presets/refine/{path.name}" if refines else f"presets/{path.name}",
        "teacher": teacher,
        "embedded": embedded,
        "facts": teacher_table(facts, cost),
        "files": [] if embedded else hub_files(facts),
        "numbers": numbers_table(name, teacher),
        "student_measured": any(k.of_student for k in known_of_preset(name, teacher)),
        "recipe": recipe(name, spec, facts.takes_prompts, embedded),
        "cost": cost_table(cost),
        "flops": flops(cost["flops_per_step"]),
        "train": spec.train,
        "advice": {gib: told for gib, told in cost["advice"].items() if told},
        "yaml": commented_yaml(spec, only=[leaf.path for leaf in changed_leaves(spec)]),
        "refinements": [n for n in refine_preset_names() if spec_of(n).teacher.name == teacher],
    }


def comments(name: str) -> str:
    """What the head of a preset says of its settings: all but its first line and its commands."""
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    head = lines[1 : next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    told = [line.lstrip("# ") for line in head if not line.startswith(("# Run:", "# Edit:"))]
    return " ".join(told)


def teacher_table(facts: Any, cost: Cost) -> str:
    """The teacher of a preset; `facts` is its blueprint, or itself where it ships inside dimo."""
    space, sampler = facts.space, facts.sampler
    groups = f" of {space.groups} parts each" if space.groups > 1 else ""
    network, tokenizer = cost["parameters"], cost["tokenizer_parameters"]
    rows = [
        ["draws", f"{space.image_size} x {space.image_size} pixels"],
        ["asked with", "a prompt" if facts.takes_prompts else "a class"],
        ["tokens of an image", f"{space.length:,}{groups}, out of {space.codes:,}"],
        ["parameters", millions(network)],
        ["parameters of its tokenizer", millions(tokenizer) if tokenizer else ""],
        ["sampler of its authors", f"{sampler.steps} steps, guidance {sampler.guidance:g}"],
        ["license", facts.license],
    ]
    told = [row for row in rows if row[1]]
    return table(("teacher", f"`{facts.name}`, of the family `{facts.family}`"), told)


def millions(count: int) -> str:
    """A number of parameters in words."""
    return f"{count / 1e6:,.0f}M" if count >= 1e7 else f"{count:,}"


def hub_files(blueprint: Any) -> list[HubFile]:
    """What is downloaded: of each network the first place where it may be."""
    return [blueprint.backbone.files[0], blueprint.tokenizer.files[0], *blueprint.other_files]


def numbers_table(name: str, teacher: str) -> str:
    """The papers' numbers of a teacher and its students beside dimo's; nothing without any."""
    rows = [known.cells() for known in known_of_preset(name, teacher)]
    return table(HEAD, rows) if rows else ""


def cost_table(cost: Cost) -> str:
    """Memory by purpose."""
    memory = cost["memory"]
    rows = [[part.replace("_", " "), size(count)] for part, count in memory.items()]
    return table(("memory", "about"), [*rows, ["together", size(sum(memory.values()))]])
