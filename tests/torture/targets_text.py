"""What is fuzzed with text: specs, flags, prompts, and documents."""

import json

import yaml
from hypothesis import strategies as st

from dimo_cli.commands.metrics import temperatures
from dimo_cli.commands.options import reward_weight
from dimo_cli.evaluation.comparing import compare_documents
from dimo_cli.evaluation.gates import read_limits
from dimo_cli.hub.datasets import parsed
from dimo_cli.metrics.prompts import load_prompts, read_lines
from dimo_cli.runs.prompts import attach_prompts
from dimo_cli.sampling.tteo import slug
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.explain import known_paths
from dimo_cli.specs.flags import spec_from_flags
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.render import to_yaml
from dimo_cli.specs.resolve import resolve_spec
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.specs.tteo import TteoSpec
from dimo_cli.teachers.classes import find_class
from dimo_cli.teachers.registry import load_skeleton, load_teacher
from tests.conftest import small_spec
from tests.torture.inputs import JSON, NASTY, TEXT, broken, lying_json, text_of

MODELS = st.sampled_from([DistillSpec, RefineSpec])
PATHS = {model: known_paths(model) for model in (DistillSpec, RefineSpec)}
VALUES = st.one_of(TEXT, JSON.map(text_of), st.sampled_from(["true", "[1, 2]", "{kind: fixed}"]))


def is_the_same_after_a_round_trip(plan, model, folder):
    """A spec that was taken can be written, read again, and is the same."""
    path = folder / "run.yaml"
    path.write_text(to_yaml(plan.spec), encoding="utf-8")
    assert resolve_spec(model, file=path, environment={}).spec == plan.spec


# What may well stand in a spec, so that some lists of settings are taken.
SOUND_SETS = st.sampled_from(
    ["train.steps=7", "train.seed=3", "loss.divergence=jeffreys", "init.mask_ratio=0.5",
     "monitor.preview_every=9", "student.temperature=0.9", "train.log_every=2"]
)  # fmt: skip


def set_strings(data, folder):
    model = data.draw(MODELS)
    known = st.tuples(st.sampled_from(PATHS[model]), VALUES).map("=".join)
    sets = data.draw(st.lists(st.one_of(known, known, SOUND_SETS, SOUND_SETS, TEXT), max_size=4))
    plan = resolve_spec(model, preset="digits", sets=sets, environment={})
    is_the_same_after_a_round_trip(plan, model, folder)


def environments(data, folder):
    model = data.draw(MODELS)
    names = st.one_of(st.sampled_from(PATHS[model]), TEXT)
    names = names.map(lambda path: "DIMO_" + path.upper().replace(".", "__"))
    values = data.draw(st.sampled_from([VALUES, st.sampled_from(["1", "0.5", "3", "true"])]))
    environment = data.draw(st.dictionaries(names, values, max_size=3))
    plan = resolve_spec(model, preset="digits", environment=environment)
    is_the_same_after_a_round_trip(plan, model, folder)


SOUND_SPEC = small_spec().model_dump(mode="json")


def spec_files(data, folder):
    model, path = data.draw(MODELS), folder / "mine.yaml"
    kinds = st.one_of(
        lying_json(SOUND_SPEC).map(lambda tree: yaml.safe_dump(tree, allow_unicode=True)),
        broken(yaml.safe_dump(SOUND_SPEC).encode()),
        JSON.map(text_of),
        st.binary(max_size=60),
        TEXT,
    )
    content = data.draw(kinds)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="replace"))
    plan = resolve_spec(model, file=path, environment={})
    is_the_same_after_a_round_trip(plan, model, folder)


FLAGS = {
    SampleSpec: ("classes", "prompts", "count", "columns", "pixels"),
    EvalSpec: ("target", "samples", "reference", "features", "resize", "crop", "temperatures"),
    TteoSpec: ("starts", "iterations", "learning_rate", "rewards", "seed", "decode"),
}


SOUND_FLAGS = {SampleSpec: {"count": 4}, EvalSpec: {"target": "digits"}, TteoSpec: {"starts": 2}}


def flags(data, folder):
    model = data.draw(st.sampled_from(list(FLAGS)))
    values = data.draw(st.dictionaries(st.sampled_from(FLAGS[model]), JSON, max_size=3))
    spec_from_flags(model, {**SOUND_FLAGS[model], **values})


def small_languages(data, folder):
    """--max, --sweep, --reward, and names of classes and of datasets."""
    text = data.draw(st.one_of(TEXT, st.tuples(WORD, VALUES).map("=".join), VALUES))
    match data.draw(st.sampled_from(["limits", "sweep", "reward", "class", "slug", "dataset"])):
        case "limits":
            read_limits([text], data.draw(st.sampled_from([["fid"], ["pr", "is"], []])), "--max")
        case "sweep":
            temperatures(text)
        case "reward":
            reward_weight(text)
        case "class":
            find_class(text, DIGITS)
        case "slug":
            assert "/" not in slug(text)
        case "dataset":
            found = parsed(f"hub:owner/name{data.draw(st.sampled_from(['', ':', '@', '/']))}{text}")
            assert parsed(str(found)) == found


WORD = st.sampled_from(["fid", "kid", "temperature", "clip", "shapes_clip", "precision", "7"])
DIGITS = load_skeleton(SampleSpec and DistillSpec().teacher)
SHAPES = load_teacher(DistillSpec.model_validate({"teacher": {"name": "shapes"}}).teacher)


def prompts(data, folder):
    texts = data.draw(st.lists(st.one_of(TEXT, st.text(max_size=300)), min_size=1, max_size=3))
    cond = SHAPES.conditioner.prompts(texts)
    assert len(cond) == len(texts)
    assert all(tensor.isfinite().all() for tensor in cond.tensors.values())


def prompt_files(data, folder):
    path = folder / "prompts.txt"
    path.write_bytes(data.draw(st.one_of(st.binary(max_size=80), TEXT.map(encoded))))
    spec = DistillSpec.model_validate(
        {"teacher": {"name": "shapes"}, "condition": {"prompts": str(path)}}
    )
    match data.draw(st.sampled_from(["lines", "run", "geneval", "coco-30k", "mjhq-30k"])):
        case "lines":
            read_lines(path)
        case "run":
            attach_prompts(SHAPES, spec)
        case name:
            if name == "geneval":
                path.write_text(data.draw(JSON.map(text_of)))
            load_prompts(name, None, path)


def encoded(text):
    return text.encode(errors="surrogatepass")


RESULT = {
    "results": [
        {"metric": "fid5k", "value": 1.5, "protocol": {"images": 5, "sampler": {"steps": 1}}}
    ],
    "subject": {"target": "student"},
    "notes": [],
    "cached": False,
}


def results_of_eval(data, folder):
    for name in ("one.json", "two.json"):
        content = data.draw(
            st.one_of(
                lying_json(RESULT).map(text_of),
                broken(json.dumps(RESULT).encode()),
                NASTY,
                st.just(json.dumps(RESULT)),
            )
        )
        content = content if isinstance(content, bytes) else encoded(content)
        (folder / name).write_bytes(content)
    compare_documents(folder / "one.json", folder / "two.json")


TARGETS = {
    "--set strings": set_strings,
    "environment": environments,
    "spec files": spec_files,
    "flags": flags,
    "small languages": small_languages,
    "prompts": prompts,
    "prompt files": prompt_files,
    "results of eval": results_of_eval,
}
