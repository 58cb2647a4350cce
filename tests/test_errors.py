"""What was probably meant is suggested, and nothing where nobody can know."""

import pytest

from dimo_cli.errors import nearest
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths
from dimo_cli.specs.resolve import preset_names

SETTINGS = {path.rpartition(".")[2] for path in known_paths(DistillSpec)}
COMMANDS = ("distill", "refine", "sample", "eval", "compare", "export", "presets", "runs", "sweep")
SLIPS = (
    ("stpes", "steps", SETTINGS),
    ("step", "steps", SETTINGS),
    ("sead", "seed", SETTINGS),
    ("batchsize", "batch_size", SETTINGS),
    ("learnin_rate", "learning_rate", SETTINGS),
    ("optimiser", "optimizer", SETTINGS),
    ("temprature", "temperature", SETTINGS),
    ("ema_decay", "decay", SETTINGS),
    ("diigts", "digits", preset_names()),
    ("maskgitt", "maskgit", preset_names()),
    ("titok", "titok-b64", preset_names()),
    ("distil", "distill", COMMANDS),
    ("smaple", "sample", COMMANDS),
    ("evaluate", "eval", COMMANDS),
    ("run", "runs", COMMANDS),
    ("fidd", "fid", ("fid", "kid", "is", "pr")),
)
NONSENSE = (
    *((word, SETTINGS) for word in ("foo", "nonsense", "banana", "bs", "workers", "gpu")),
    *((word, preset_names()) for word in ("imagenet", "nope", "mnist", "cat", "stable-diffusion")),
    *((word, COMMANDS) for word in ("train", "test", "list", "generate", "infer", "login", "help")),
)


@pytest.mark.parametrize(("word", "meant", "choices"), SLIPS)
def test_a_slip_is_put_right(word, meant, choices):
    assert nearest(word, choices) == meant


@pytest.mark.parametrize(("word", "choices"), NONSENSE)
def test_nothing_is_suggested_for_nonsense(word, choices):
    assert nearest(word, choices) is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lr", "Did you mean `student.optimizer.learning_rate`?"),
        ("train.lr", "Did you mean `student.optimizer.learning_rate`?"),
        ("learning_rate", "Did you mean `student.optimizer.learning_rate`?"),
        ("bs", "Did you mean `train.batch_size`?"),
        ("batch_size", "Did you mean `train.batch_size`?"),
        ("steps", "Did you mean `train.steps`?"),
        ("max_steps", "Did you mean `train.steps`?"),
        ("gradient_accumulation_steps", "Did you mean `train.accumulate`?"),
        ("guidance_scale", "Did you mean `teacher.guidance.scale`?"),
        ("epochs", "set `train.steps`"),
        ("train.gpus", "use `--gpus N`"),
    ],
)
def test_the_names_of_other_programs_lead_to_the_setting(dimo, name, told):
    done = dimo("distill", "--preset", "digits", "--dry-run", "--set", f"{name}=3")
    assert done.exit_code == 2
    assert told in done.stderr.replace("\n", " ").replace("  ", " ")
