"""Every mistake in a spec is refused with exit code 2 and a sentence that names the field."""

import pytest

from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.explain import known_paths

# assignment -> the words that must be in the message
MISTAKES = {
    # unknown keys, with the nearest known one
    "train.stps=5": ("train.stps", "`train.steps`"),
    "trian.steps=5": ("trian", "`train`"),
    "loss.betta=0.3": ("loss.betta", "`loss.divergence.beta`"),
    "init.mask_ration=0.5": ("init.mask_ration", "`init.mask_ratio`"),
    "student.optimizer.lr=1": ("student.optimizer.lr",),
    "student.ema.deccay=0.9": ("student.ema.deccay", "`student.ema.decay`"),
    "auxiliary.update=2": ("auxiliary.update", "`auxiliary.updates`"),
    "monitor.fid=1": ("monitor.fid",),
    "recovery.max_skiped=1": ("recovery.max_skiped", "`recovery.max_skipped`"),
    "nonsense=1": ("nonsense",),
    "init.embed_noise.sigmaa=0.1": ("init.embed_noise.sigmaa", "sigma"),
    "loss.divergence.alpha=0.5": ("loss.divergence.alpha",),
    # numbers out of range
    "train.steps=0": ("train.steps", "0", "greater than or equal to 1"),
    "train.steps=-5": ("train.steps", "-5"),
    "train.batch_size=0": ("train.batch_size", "0"),
    "train.accumulate=0": ("train.accumulate",),
    "train.seed=-1": ("train.seed", "-1"),
    "train.seed=99999999999": ("train.seed",),
    "train.log_every=0": ("train.log_every",),
    "train.checkpoint_every=0": ("train.checkpoint_every",),
    "train.keep_checkpoints=0": ("train.keep_checkpoints",),
    "init.mask_ratio.value=1.5": ("init.mask_ratio.value", "1.5", "less than or equal to 1"),
    "init.mask_ratio=-0.1": ("init.mask_ratio", "-0.1"),
    "init.embed_noise.sigma=2": ("init.embed_noise.sigma", "2"),
    "init.embed_noise=-1": ("init.embed_noise", "-1"),
    "init.control_token=-1": ("init.control_token",),
    "loss.divergence.beta=9": ("loss.divergence.beta", "9"),
    "loss.weight.value=0": ("loss.weight.value", "greater than 0"),
    "loss.teacher_temperature=0": ("loss.teacher_temperature",),
    "loss.auxiliary_temperature=-1": ("loss.auxiliary_temperature",),
    "loss.entropy_bonus=-11": ("loss.entropy_bonus",),
    "loss.chunk_tokens=0": ("loss.chunk_tokens",),
    "student.optimizer.learning_rate=0": ("student.optimizer.learning_rate",),
    "student.optimizer.learning_rate=3": ("student.optimizer.learning_rate", "3"),
    "student.optimizer.beta1=1": ("student.optimizer.beta1", "less than 1"),
    "student.optimizer.beta2=-0.1": ("student.optimizer.beta2",),
    "student.optimizer.eps=0": ("student.optimizer.eps",),
    "student.optimizer.warmup_steps=-1": ("student.optimizer.warmup_steps",),
    "student.optimizer.clip_norm=0": ("student.optimizer.clip_norm",),
    "student.ema.decay=1": ("student.ema.decay", "less than 1"),
    "student.temperature=0": ("student.temperature",),
    "student.steps=0": ("student.steps", "0", "greater than or equal to 1"),
    "student.steps=[1, 9]": ("student.steps", "9", "less than or equal to 8"),
    "student.steps=[]": ("student.steps",),
    "student.steps=two": ("student.steps", "two"),
    "auxiliary.updates=0": ("auxiliary.updates",),
    "auxiliary.soft_weight=1.1": ("auxiliary.soft_weight",),
    "auxiliary.soft_temperature=0": ("auxiliary.soft_temperature",),
    "auxiliary.label_smoothing=1": ("auxiliary.label_smoothing",),
    "teacher.guidance.scale=-1": ("teacher.guidance.scale",),
    "recovery.max_skipped=0": ("recovery.max_skipped",),
    "recovery.max_rollbacks=-1": ("recovery.max_rollbacks",),
    "recovery.learning_rate_factor=0": ("recovery.learning_rate_factor",),
    "monitor.preview_images=0": ("monitor.preview_images",),
    "monitor.fid_samples=5": ("monitor.fid_samples", "5"),
    "monitor.table_samples=7": ("monitor", "table_samples"),
    "monitor.teacher_steps=[]": ("monitor.teacher_steps",),
    "monitor.teacher_steps=[0]": ("monitor.teacher_steps.0", "0"),
    # the wrong kind of value
    "train.steps=many": ("train.steps", "many", "whole number"),
    "train.steps=1.5": ("train.steps", "1.5"),
    "train.steps=yes": ("train.steps", "must be a number, not true"),
    "train.compile=maybe": ("`train.compile`", "must be auto, true or false, not 'maybe'"),
    "train.micro_batch=0": ("`train.micro_batch`", "auto or a whole number from 1", "not 0"),
    "train.micro_batch=yes": ("`train.micro_batch`", "auto or a whole number", "not True"),
    "train.gradient_checkpointing=2": (
        "`train.gradient_checkpointing`",
        "auto, true or false, not 2",
    ),
    "student.optimizer.learning_rate=fast": ("student.optimizer.learning_rate", "fast"),
    "student.optimizer.learning_rate=.nan": ("student.optimizer.learning_rate", "nan"),
    "student.optimizer.learning_rate=.inf": ("student.optimizer.learning_rate", "inf"),
    "train=5": ("`train` is 5", "it is a group", "`train.steps`"),
    "student.ema=[1]": ("`student.ema` is [1]", "it is a group"),
    "loss.divergence=[fkl]": ("`loss.divergence` is ['fkl']", "it is a group"),
    "init=null": ("`init` is None", "it is a group"),
    "train.steps=[1, 2]": ("train.steps",),
    "train.steps={a: 1}": ("train.steps",),
    "monitor.teacher_steps=4": ("monitor.teacher_steps", "4"),
    # not one of the choices
    "masking.student=arcos": ("masking.student", "arcos", "`arccos`"),
    "masking.method=exactly": ("masking.method", "exactly", "bernoulli"),
    "loss.divergence=klf": ("loss.divergence", "klf", "jeffreys"),
    "loss.divergence.kind=fkll": ("loss.divergence.kind", "fkll", "`fkl`"),
    "loss.weight=adaptve": ("loss.weight", "adaptve", "`adaptive`"),
    "loss.student_input=xinit": ("loss.student_input", "xinit", "`x_init`"),
    "loss.reduction=total": ("loss.reduction", "total", "masked_mean"),
    "init.control=fixed": ("init.control", "fixed"),
    "init.mask_ratio.kind=fix": ("init.mask_ratio.kind", "`fixed`"),
    "student.optimizer.kind=sgd": ("student.optimizer.kind", "sgd", "adamw"),
    "train.device=gpu": ("train.device", "gpu", "cuda"),
    "train.precision=fp16": ("train.precision", "fp16", "bf16"),
    "teacher.guidance.kind=quadratic": ("teacher.guidance.kind", "quadratic"),
    "teacher.name=digit": ("teacher.name", "`digits`"),
    "loss.divergence={kind: generator, name: pearsn}": ("loss.divergence.name", "`pearson`"),
    # combinations that make no sense
    "init.control_token=3": ("control_token", "fixed_image_token"),
    "init.mask_ratio={kind: random, low: 0.8, high: 0.2}": ("mask_ratio", "low (0.8)"),
    "loss.divergence={kind: alpha, alpha: 1}": ("alpha", "use kind rkl"),
    "loss.divergence={kind: generator}": ("loss.divergence.name", "missing"),
    "student.optimizer.weight_decay=0.1": ("weight_decay", "adamw"),
    "auxiliary={share_x_tilde: true, fresh_samples: true}": ("share_x_tilde", "fresh_samples"),
    # not an assignment at all
    "train.steps": ("--set train.steps", "key=value"),
    "=5": ("key=value",),
    "train..steps=5": ("key=value",),
    "train.steps=[1,": ("train.steps", "cannot be read"),
}


def test_there_are_at_least_sixty_mistakes():
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("assignment", MISTAKES)
def test_a_mistake_exits_2_without_a_traceback_and_names_the_field(dimo, assignment):
    result = dimo("distill", "--preset", "digits", "--dry-run", "--set", assignment)
    assert result.exit_code == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "Error:" in result.stderr
    assert result.stdout == ""
    for words in MISTAKES[assignment]:
        assert words in result.stderr


def test_all_mistakes_are_reported_together_with_their_origins(dimo, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("train:\n  batch_size: 0\ninit:\n  control: nothing\n")
    monkeypatch.setenv("DIMO_TRAIN__SEED", "-3")
    result = dimo("distill", "--spec", "mine.yaml", "--preset", "digits", "--set", "train.steps=0")
    assert result.exit_code == 2
    for words in (
        "`train.batch_size` is 0 (from mine.yaml, line 2)",
        "`init.control` is 'nothing' (from mine.yaml, line 4)",
        "`train.seed` is -3 (from environment DIMO_TRAIN__SEED)",
        "`train.steps` is 0 (from flag --set train.steps)",
    ):
        assert words in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: [", "not valid YAML"),
        ("- a\n- b\n", "holds a list"),
        ("just words", "holds a str"),
        ("train: {steps: 5}\nextra: 1\n", "`extra` (from bad.yaml, line 2)"),
        ("preset: nothing\n", "no preset `nothing`"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        (
            "train: {steps: 5}\ntrain: {steps: 6}\n",
            "`train` is set twice in bad.yaml, on lines 1 and 2",
        ),
        ("train:\n  steps: 5\n  steps: 6\n", "`train.steps` is set twice"),
        ("\x00", "not valid YAML"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
        ("1: 2\n", "`1`"),
    ],
)
def test_a_broken_spec_file_is_refused(dimo, tmp_path, text, words):
    (tmp_path / "bad.yaml").write_text(text)
    result = dimo("spec", "check", "bad.yaml")
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give `--preset` or `--spec`"),
        (("--preset", "digit"), "Did you mean `digits`"),
        (("--spec", "missing.yaml"), "No such spec file: `missing.yaml`"),
        (("--spec", "."), "`.` is a folder, not a file"),
        (("--resume", "runs/x", "--preset", "digits"), "--resume"),
        (("--preset",), "requires an argument"),
        (("--prest", "digits"), "--preset"),
        (("extra",), "extra"),
    ],
)
def test_wrong_arguments_of_distill_exit_2(dimo, arguments, words):
    result = dimo("distill", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sample", "-n", "0"), "`-n` is 0"),
        (("sample", "--seed", "-1"), "`--seed` is -1"),
        (("sample", "--temperature", "0"), "`--temperature` is 0"),
        (("sample", "--top-p", "1.5"), "`--top-p` is 1.5"),
        (("sample", "--top-k", "-2"), "`--top-k` is -2"),
        (("sample", "--columns", "0"), "`--columns` is 0"),
        (("sample", "--pixels", "0"), "`--pixels` is 0"),
        (("sample", "--steps", "4"), "in 1 step, not in 4"),
        (("sample", "--grid", "out.jpg"), "must end in .png"),
        (("sample", "--teacher", "--steps", "0"), "`--steps` is 0"),
        (("sample", "--teacher", "--steps", "65"), "more than the 64 tokens"),
        (("sample", "--teacher", "--top-k", "3"), "apply to students"),
        (("sample", "--class", "ten"), "no class `ten`"),
        (("sample", "--class", "-1"), "classes go from 0 to 9"),
        (("eval", "fid", "digits", "--samples", "1"), "`--samples` is 1"),
        (("eval", "fid", "digits", "--max", "low"), "`--max low`"),
        (("eval", "fid", "digits", "--guidance", "2"), "add --teacher"),
        (("eval", "fid"), "target"),
        (("eval", "nothing"), "nothing"),
        (("presets", "show", "digit"), "`digits`"),
        (("presets", "cp", "nope", "x.yaml"), "nope"),
        (("distil",), "distill"),
        (("sample", "--teacher", "--sampler", "haltn"), "`--sampler` is 'haltn'"),
        (("sample", "--sampler", "halton"), "add --teacher"),
        (("sample", "--class", "3", "--prompt", "a fox"), "exclude each other"),
        (("sample", "--student", "x", "--preset", "maskgit", "--teacher"), "exclude each other"),
        (("sample", "--set", "teacher.revision=x"), "add --preset"),
        (("tteo", "shapes", "--prompt", "x", "--reward", "clip=-1"), "`--reward clip` is -1.0"),
        (("tteo", "shapes", "--prompt", "x", "--reward", "hps_v2.1=0"), "`--reward hps_v2.1` is 0"),
        (("tteo", "shapes", "--prompt", "x", "--rate", "0"), "`--rate` is 0"),
        (("tteo", "shapes", "--prompt", "x", "--iters", "-1"), "`--iters` is -1"),
        (("refine", "shapes", "--reward", "clip=-1"), "(from flag --reward clip)"),
        (("refine", "shapes", "--reward", "hps_v2.1=-1"), "(from flag --reward hps_v2.1)"),
    ],
)
def test_wrong_flags_of_other_commands_exit_2_and_name_the_flag(dimo, arguments, words):
    result = dimo(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("path", known_paths(DistillSpec))
def test_every_field_refuses_nonsense_or_is_a_group(dimo, path):
    result = dimo("distill", "--preset", "digits", "--dry-run", "--set", f"{path}.nonsense=1")
    assert result.exit_code == 2
    assert path.split(".")[-1] in result.stderr
    assert "Traceback" not in result.stderr
