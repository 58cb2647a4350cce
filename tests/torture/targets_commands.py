"""What is fuzzed as a person would do it: the arguments of every command."""

import json
import shutil
from unittest.mock import patch

import typer
from hypothesis import strategies as st
from typer.testing import CliRunner

from dimo_cli.commands.usage import commands_of
from dimo_cli.errors import DimoError
from dimo_cli.main import app
from dimo_cli.students.folder import BUILTIN
from tests.conftest import small_spec
from tests.helpers.pictures import class_folder
from tests.torture.inputs import TEXT

# At the end of a command, where they win: so that what is sound ends soon, and needs no network.
BRIEF = {
    "distill": ("--dry-run",),
    "refine": ("--dry-run",),
    "push": ("--dry-run",),
    "doctor": ("--offline",),
    "sample": ("-n", "1"),
    "compare": ("-n", "1"),
    "tteo": ("--iters", "1", "--starts", "1"),
    "eval": ("-n", "8"),
    "data encode": ("--processes", "1"),
}
# What takes seconds or waits for a browser when it works, and what only prints.
NEVER = {"play", "export", "presets list", "spec schema", "eval ref build", "eval geneval-export"}
SMALL = st.sampled_from(["-1", "0", "1", "2", "3", "8", "1e3", "0.5", "nan", "inf", "x", "0x10"])
PLACES = ("run", "student", "photos", "one.png", "mine.yaml", "damaged.yaml", "prompts.txt", ".",
          "results.json", "images.npz", "nothing", "new", "new/deep", "run/log.jsonl")  # fmt: skip
SUBJECTS = ("digits", "shapes", "run", "student", "maskgit", "you/x", "teacher:2", "photos")
# What belongs somewhere; elsewhere any of it may turn up.
SENSIBLE = {
    "student": SUBJECTS, "target": SUBJECTS, "targets": SUBJECTS, "run": ("run", "nothing"),
    "repository": ("you/x", "a/b"), "source": ("photos", "images.npz"), "file": PLACES,
    "results": ("results.json",), "name": ("digits", "maskbit"), "preset": ("digits", "maskgit"),
    "spec": ("mine.yaml", "damaged.yaml"), "folder": ("new", "new/deep", "run"),
    "local_dir": (".",),
    "resume": ("run", "student"), "sets": ("train.steps=3", "loss.kind=x", "init.mask_ratio=0.5"),
    "classes": ("7", "seven", "11"), "prompts": ("a red circle", "prompts.txt", "coco-30k"),
    "prompts_file": ("prompts.txt",), "rewards": ("clip=1", "shapes=1"), "grid": ("out.png",),
    "gallery": ("out.html",), "animate": ("out.gif",),
    "plot": ("out.png",), "terms": ("clip=1",), "maximum": ("fid=3", "is=2"), "minimum": ("is=2",),
    "temperatures": ("temperature=1,2", "temperature=1..3"), "metrics": ("results.json",),
    "reference": ("digits", "images.npz"), "features": ("digits", "inception"),
    "method": ("random", "confidence", "halton", "published"), "interpolate": ("7", "one.png"),
    "init": ("one.png",), "license_link": ("https://example.org",), "save_images": ("new",),
}  # fmt: skip


def as_typed(text):
    """Text as it can come from a terminal: no NUL, and only such surrogates as bytes become."""
    return text.encode("utf-8", "ignore").decode().replace("\0", "")


EVERYTHING = sorted({word for words in SENSIBLE.values() for word in words} | set(PLACES))
WORDS = st.one_of(st.sampled_from(EVERYTHING), SMALL, TEXT.map(as_typed))


def values_of(parameter):
    """What a person may write there: mostly what belongs there."""
    fitting = SENSIBLE.get(parameter.name)
    return st.one_of(*3 * [st.sampled_from(fitting) if fitting else SMALL], WORDS)


def leaves(group, path=()):
    """Every command with its name."""
    for name, entry in commands_of(group).items():
        if commands_of(entry):
            yield from leaves(entry, (*path, name))
        else:
            yield " ".join((*path, name)), entry


COMMANDS = {name: entry for name, entry in leaves(typer.main.get_command(app)) if name not in NEVER}


# The metrics of `dimo eval` share their flags: so any one of the others comes more often.
OFTEN = sorted(COMMANDS) + 3 * [name for name in sorted(COMMANDS) if not name.startswith("eval")]


def template(folder):
    """A folder of the kind that people start `dimo` in."""
    class_folder(folder / "photos", 2)
    shutil.copy(next(folder.rglob("*.png")), folder / "one.png")
    shutil.copytree(BUILTIN["digits"], folder / "student")
    shutil.copytree(BUILTIN["digits"], folder / "run" / "student")
    (folder / "run" / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2')
    spec = json.dumps(small_spec().model_dump(mode="json"))
    (folder / "mine.yaml").write_text(spec)
    (folder / "run" / "run.yaml").write_text(spec)
    (folder / "damaged.yaml").write_text(spec[:-9])
    (folder / "prompts.txt").write_text("a red circle\n\na blue square\n")
    (folder / "results.json").write_text('{"results": []}')
    (folder / "images.npz").write_bytes(b"PK\x03\x04")


@st.composite
def command_lines(draw):
    """A command with some of its arguments and flags, and what does not belong there."""
    name = draw(st.sampled_from(OFTEN))
    positional, flags = [], []
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "argument":
            if parameter.required or draw(st.booleans()):
                positional.append(draw(values_of(parameter)))
        elif parameter.required or draw(st.integers(0, 9)) == 0:
            flag = draw(st.sampled_from([*parameter.opts, *parameter.secondary_opts]))
            values = (
                []
                if parameter.is_flag
                else [draw(values_of(parameter)) for _ in range(parameter.nargs)]
            )
            flags += [flag, *values]
    if draw(st.integers(0, 19)) == 0:
        flags.append(draw(WORDS))
    brief = BRIEF.get(name) or BRIEF.get(name.split()[0], ())
    known = {option for p in COMMANDS[name].params for option in p.opts}
    return [*name.split(), *flags, *(brief if set(brief) & known else ()), "--", *positional]


def command_arguments(data, folder):
    """Exit codes as in the README, sentences for people, and one document for machines."""
    arguments = data.draw(command_lines())
    template(folder)
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "COLUMNS": "100"}
    # Processes of their own would work out of sight of all guards.
    started = patch("dimo_cli.distributed.start.launch", side_effect=DimoError("processes"))
    with patch.dict("os.environ", environment), started:
        result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2, 3, 4)
    assert "Traceback" not in result.output
    if result.exit_code == 1:  # only a gate of `dimo eval` says no in this way
        assert "--max" in arguments or "--min" in arguments
    elif result.exit_code and arguments[0] != "doctor":  # whose result is that it is not ready
        assert result.stderr.strip()
        if "--json" in arguments[: arguments.index("--")]:
            assert json.loads(result.stdout)["exit_code"] == result.exit_code
    if result.exit_code:
        raise DimoError("refused")


TARGETS = {"arguments of commands": command_arguments}
