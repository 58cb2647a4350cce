"""The trials compare like with like, and the report says how sure a difference is."""

import json
import math
from xml.etree import ElementTree

import pytest
import torch

from benchmarks.soft_dimo import (
    claims,
    curves,
    distilling,
    emoji,
    gan,
    measuring,
    report,
    report_of_emoji,
    rewards,
    shapes,
    steps,
    trials,
    tteo,
)
from benchmarks.soft_dimo.__main__ import asked_for
from benchmarks.soft_dimo.claims import Claim, row
from benchmarks.soft_dimo.claims_of_emoji import OF_EMOJI
from benchmarks.soft_dimo.evidence import Measured, over_seeds, ratio_of_means
from benchmarks.soft_dimo.intervals import mcnemar, paired_gain
from benchmarks.soft_dimo.trials import Trial, packed, unpacked
from dimo_cli.metrics.emoji import TASKS
from dimo_cli.specs.distill import DistillSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.resolve import resolve_spec


def test_student_and_teacher_are_drawn_at_the_same_temperatures():
    def temperatures(whose):
        names = [trial for trial in steps.trials() if trial.name.startswith(whose)]
        return {(trial.settings["temperature"], trial.settings["seed"]) for trial in names}

    assert temperatures("student") == temperatures("teacher")
    assert (1.0, 2) in temperatures("student")


def test_the_control_of_the_gan_is_the_same_training_without_it():
    def spec(name):
        sets = [*gan.ARMS[name], "start=digits"]
        return resolve_spec(RefineSpec, preset="digits-gan", sets=sets, environment={}).spec

    control, soft = spec("control").model_dump(), spec("soft").model_dump()
    assert (control["gan"].pop("enabled"), soft["gan"].pop("enabled")) == (False, True)
    assert control == soft


def test_all_arms_of_the_gan_start_from_the_student_that_ships():
    arms = gan.trials()
    assert {trial.settings["start"] for trial in arms} == {"digits"}
    assert all("digits-student/model.safetensors" in trial.weights for trial in arms)
    for name, sets in gan.ARMS.items():
        spec = resolve_spec(
            RefineSpec, preset="digits-gan", sets=[*sets, "start=digits"], environment={}
        ).spec
        assert spec.auxiliary.start == "teacher", f"{name}: what ships has no auxiliary"


def test_the_arms_that_claims_are_of_have_all_seeds_and_the_first_claim_comes_first():
    names = [trial.name for trial in gan.trials()]
    assert names[:6] == ["control-0", "soft-0", "control-1", "soft-1", "control-2", "soft-2"]
    for name in ("before", "gumbel", "gan-alone"):
        assert {f"{name}-{seed}" for seed in (0, 1, 2)} <= set(names)
    assert [name for name in names if name.startswith("mask-0.5")] == ["mask-0.5-0"]
    assert len(names) == len(set(names)) == 19


def test_a_curve_has_a_gap_where_nothing_was_measured(tmp_path):
    lines = [{"step": 50, "entropy": 0.41234}, {"step": 100, "entropy": 0.4, "fid": 0.5}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = gan.curve(tmp_path)
    assert (found["step"], found["entropy"]) == ([50, 100], [0.4123, 0.4])
    assert found["fid"] == [None, 0.5]


def gan_arm(fid, entropy=0.3):
    measured = {"fid5k": fid, "recall_k3": 0.9}
    return {"held_out": measured, "seen": measured, "curve": {"entropy": [0.4, entropy]}}


def test_a_claim_of_the_gan_has_the_interval_of_the_seeds_that_are_there():
    found = {f"control-{seed}": gan_arm(1.0) for seed in (0, 1, 2)}
    found |= {f"soft-{seed}": gan_arm(0.8 + 0.01 * seed) for seed in (0, 1, 2)}
    found |= {"gumbel-0": gan_arm(0.9), "gumbel-1": gan_arm(0.9), "mask-0-0": gan_arm(0.95)}
    told = {claim.text: claim.measure({"gan": found}) for claim in report.CLAIMS}
    improved = told["a GAN improves the student"]
    assert (improved.seeds, improved.mean) == ("3", pytest.approx(0.81))
    assert improved.high < 0.9
    assert told["soft embeddings are better than Gumbel's for a GAN"].seeds == "2"
    masks = told["a wide range of masks is better than none"]
    assert (masks.seeds, masks.interval) == ("1", "none")


def test_the_report_compares_a_gan_on_tokens_with_maskgits_numbers():
    curve = {"curve": curve_of(None, 0.5, None, 0.4)}
    arm = {"held_out": {"fid5k": 0.9}, "seen": {"fid5k": 0.8}, **curve}
    control = {"held_out": {"fid5k": 1.0}, "seen": {"fid5k": 0.8}, **curve}
    text = report.gan({"gan": {"soft-0": arm, "control-0": control}})
    assert "6.91 to 6.40" in text
    assert "2.89" not in text
    assert "| soft | 0.900 (1 seed) | 0.800 (1 seed) | 0.90 |" in text


def test_a_gain_is_that_of_the_same_prompts_and_seeds_with_an_interval():
    before = {f"student-T1.0-{seed}": {"true": "0101" * 50} for seed in (0, 1)}
    after = {f"arm-{seed}": {"true": "0111" * 50} for seed in (0, 1)}
    found = report.gain(after, before, "arm", "student-T1.0")
    assert found.mean == pytest.approx(0.25)
    assert 0.15 < found.low < 0.25 < found.high < 0.35
    assert report.gain(after, before, "other", "student-T1.0") is None


def test_equal_verdicts_have_no_gain():
    found = paired_gain([[1, 0, 1]], [[1, 0, 1]])
    assert (found.low, found.mean, found.high) == (0, 0, 0)


def test_mcnemar_counts_prompts_that_only_one_gets_right():
    assert mcnemar([1, 1, 0], [1, 1, 0]) == 1.0
    assert mcnemar([1] * 10, [0] * 10) == pytest.approx(2 / 2**10)


def test_a_judge_that_judged_can_still_give_a_gradient():
    measuring.judged(torch.zeros(1, 3, 32, 32), ["a red circle"], shapes.STRONG)
    assert not any(weight.is_inference() for weight in measuring.judge(shapes.STRONG).parameters())


def test_a_result_is_kept_and_measured_again_when_its_settings_change(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.soft_dimo.trials.RESULTS", tmp_path / "results")
    calls = []

    def run(folder):
        calls.append(folder)
        return {"true": packed([True, False])}

    trial = Trial("part", "name", {"seed": 0}, run)
    for _ in range(2):
        assert unpacked(trial.carry_out(tmp_path)["true"]) == [1, 0]
    assert len(calls) == 1
    kept = json.loads(trial.path.read_text())
    assert kept["command"].endswith("--only part/name")
    assert Trial("part", "name", {"seed": 1}, run).result() is None


def test_every_arm_that_is_asked_for_is_there():
    arms = [trial.settings for trial in rewards.trials()]
    assert sum(arm["steps"] == 300 for arm in arms) == 3 * 3 * 2 * 3 * 2
    assert {arm["ratio"] for arm in arms} == {0.3, 1.0, 5.0}
    names = {f"{trial.part}/{trial.name}" for trial in asked_for(["tteo/base-soft"])}
    assert names == {f"tteo/base-soft-{name}" for name in tteo.BUDGETS}


def test_every_claim_has_its_row_and_what_is_not_run_says_so():
    assert len(report.CLAIMS) >= 18
    text = report.claims({})
    for claim in report.CLAIMS:
        assert f"| {claim.text} | {claim.where} | {claim.said} |" in text
    assert "| a reward beside Di[M]O makes more pictures true |" in text
    assert text.count("| not run") >= 20


def claim(low=float("-inf"), high=float("inf")):
    return Claim("text", "where", "said", lambda evidence: None, "what", low, high)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.03, 0.05), "reproduced"),
        ((0.01, 0.05), "not reproduced"),
        ((-0.05, 0.01), "refuted here"),
        ((None, None), "not reproduced"),
    ],
)
def test_a_claim_holds_only_with_its_whole_interval(interval, verdict):
    assert claim(low=0.02).verdict(Measured(0.03, *interval, "3")) == verdict
    assert claim(low=0.02).verdict(None) == "not run"


def test_to_be_equal_is_to_be_within_both_bounds():
    equal = claim(low=0.8, high=1.25)
    assert equal.bar == "0.8 to 1.25"
    assert equal.verdict(Measured(1.02, 0.85, 1.2, "3")) == "reproduced"
    assert equal.verdict(Measured(1.5, 1.3, 1.7, "3")) == "refuted here"
    assert equal.verdict(Measured(1.2, 1.1, 1.3, "3")) == "not reproduced"


def test_one_seed_decides_nothing_and_two_or_three_have_students_t():
    assert over_seeds([0.9]).low is None
    two = over_seeds([0.9, 1.1])
    assert (two.low, two.high) == pytest.approx((1 - 1.2706, 1 + 1.2706), abs=1e-3)
    found = over_seeds([0.9, 1.0, 1.1])
    assert (found.low, found.high) == pytest.approx((1 - 0.2484, 1 + 0.2484), abs=1e-3)
    assert over_seeds([]) is None


def test_a_ratio_of_means_has_the_noise_of_both_sides():
    found = ratio_of_means([0.4, 0.4 * 1.1, 0.4 / 1.1], [0.2, 0.2 * 1.1, 0.2 / 1.1])
    assert found.mean == pytest.approx(2)
    assert math.log(found.high / 2) == pytest.approx(
        2.776 * math.log(1.1) * (2 / 3) ** 0.5, rel=1e-3
    )
    sure = ratio_of_means([0.4, 0.4 * 1.1, 0.4 / 1.1], [0.2, 0.2, 0.2])
    assert sure.seeds == "3, the teacher's 3"


def test_what_stands_where_others_have_seeds_is_named():
    told = {kind: {"variance": 1.0, "bias": 1.0} for kind in ("soft", "gumbel_st", "reinforce")}
    estimators = {"soft-1.0": told, "gumbel_st-1.0": told}
    text = report.short_table({"estimators": estimators})
    assert "| REINFORCE has the most variance | very high | 1 [1, 1] | 2 discriminators |" in text
    assert over_seeds([0.7], "discriminator").seeds == "1 discriminator"


def test_a_reward_that_gains_for_every_prompt_is_reproduced():
    told = {"shapes_witness": 1.0, "diversity": 0.5}
    start, arm = {"true": "0101" * 50, **told}, {"true": "0111" * 50, **told}
    before = {f"student-T1.0-{seed}": start for seed in (0, 1, 2)}
    after = {f"shapes_preference-soft-1.0-dimo-{seed}": arm for seed in (0, 1, 2)}
    text = report.claims({"steps": before, "rewards": after})
    line = next(line for line in text.splitlines() if "more pictures true" in line)
    assert line.endswith("| 3 | above 0.02 | reproduced |")


def test_a_longer_refinement_stands_beside_the_usual_one():
    by_name = {trial.name: trial for trial in rewards.trials()}
    usual = by_name["shapes_preference-soft-1.0-dimo-0"]
    longer = by_name["shapes_preference-soft-1.0-dimo-0-900"]
    assert longer.settings == {**usual.settings, "steps": 900}
    assert longer.digest != usual.digest


def test_what_was_measured_before_is_still_of_these_settings():
    kept = list((trials.RESULTS / "rewards").glob("*.json"))
    known = {trial.name: trial.settings for trial in rewards.trials()}
    assert kept
    for path in kept:
        assert json.loads(path.read_text())["settings"] == known[path.stem]


def test_claims_are_of_the_longer_refinement_once_all_its_seeds_are_there():
    told = {"shapes_witness": 1.0, "diversity": 0.5}
    start, arm, best = ({"true": true * 50, **told} for true in ("0100", "0110", "0111"))
    before = {f"student-T1.0-{seed}": start for seed in (0, 1, 2)}
    after = {f"shapes_preference-soft-1.0-dimo-{seed}": arm for seed in (0, 1, 2)}
    longer = {f"shapes_preference-soft-1.0-dimo-{seed}-900": best for seed in (0, 1, 2)}

    def line(found):
        text = report.claims({"steps": before, "rewards": found})
        return next(line for line in text.splitlines() if "more pictures true" in line)

    assert "| 0.25 (" in line(after)
    two = dict(list(longer.items())[:2])
    assert line(after | two) == line(after)
    assert "| 0.5 (" in line(after | longer)
    assert "| 3, 900 steps |" in line(after | longer)
    assert "| 3, 900 steps |" in report.rewards({"steps": before, "rewards": after | longer})


def test_a_setting_of_dimo_is_compared_with_the_same_training_without_it():
    def kept(fid):
        return {"fid": fid, "accuracy": 0.98}

    found = {f"preset-{seed}": kept(0.5) for seed in (0, 1, 2)}
    found |= {f"updates-4-{seed}": kept(0.5 + 0.01 * seed) for seed in (0, 1, 2)}
    found |= {"guidance-4-0": kept(2.0), "guidance-2-0": kept(1.0)}
    told = {claim.text: claim.measure({"distilling": found}) for claim in report.CLAIMS}
    more = told["more updates of the auxiliary do not help"]
    assert (more.mean, more.seeds) == (pytest.approx(1.02), "3")
    assert told["higher guidance makes FID worse"].mean == 2
    assert told["an entropy bonus does not help"] is None
    text = report.distilling({"distilling": found})
    assert "| updates-4 | `auxiliary.updates=4` | 0.510 ± 0.010 (3 seeds) |" in text


def test_the_settings_that_are_compared_are_settings_of_the_preset():
    for sets in distilling.ARMS.values():
        resolve_spec(DistillSpec, preset="digits", sets=list(sets), environment={})


def test_a_claim_that_fails_says_why_and_one_that_holds_does_not():
    claims = [claim for claim in report.CLAIMS if claim.because]
    for claim in claims:
        beyond = claim.low - 1 if claim.low > float("-inf") else claim.high + 1
        failing = Measured(beyond, beyond, beyond, "3")
        assert row(claim, failing)[-1] == f"refuted here: {claim.because}"
        assert row(claim, None)[-1] == "not run"


def test_what_is_kept_of_digits_is_evidence_as_it_is():
    told = {claim.text: claim.measure({}) for claim in report.CLAIMS}
    fast = told["one step is an order of magnitude faster"]
    assert fast.seeds == "3"
    assert fast.low > 10
    assert told["z_theta taken at x_tilde itself diverges"].seeds == "2"


def curve_of(*fids):
    steps = [50.0 * (number + 1) for number in range(len(fids))]
    return {"step": steps, "fid": list(fids), "entropy": [0.4] * len(fids), "top1": [0.8] * 4}


def test_curves_are_means_of_the_seeds_that_all_arms_have():
    first, second = curve_of(None, 0.5, None, 0.4), curve_of(None, 0.7, None, 0.6)
    points = curves.averaged([first, second], "fid")
    assert points == [(100.0, 0.6), (200.0, 0.5)]


def test_pictures_of_the_gan_say_which_arms_are_not_run():
    arm = {**gan_arm(0.9), "curve": curve_of(None, 0.5, None, 0.4)}
    found = {"control-0": arm, "control-1": arm, "soft-0": arm}
    drawn = curves.files(found)
    assert set(drawn) == {f"soft-dimo-{name}.svg" for name in ("fid", "masks", "entropy", "top1")}
    assert "gumbel" not in drawn["soft-dimo-fid.svg"]
    ElementTree.fromstring(drawn["soft-dimo-fid.svg"])
    text = report.gan({"gan": found})
    assert "(Figs. 4a and 4b), mean of seeds: 0. Not run: gumbel, gan-alone." in text
    assert "](soft-dimo-fid.svg)" in text


def test_without_any_arm_there_is_no_picture():
    assert curves.files({}) == {}
    assert "(Fig. 4c): not run." in curves.text({})


def test_the_arms_of_emoji_have_all_seeds_and_a_control_that_differs_in_one_setting():
    names = {trial.name for trial in emoji.trials()}
    arms = (*emoji.ARMS, "before", "teacher-1", "teacher-4", "teacher-16")
    assert {f"{arm}-{seed}" for arm in arms for seed in (0, 1, 2)} == names
    assert emoji.ARMS["gan-soft"] == emoji.ARMS["reward-soft"] == ()
    assert emoji.ARMS["gan-none"] == ("gan.enabled=false",)


def test_the_prompts_of_emoji_are_of_all_tasks_in_turn_and_of_nothing_held_out():
    tasks = emoji.tasks()
    assert len(tasks) == 1200
    assert [task.name for task in tasks[:5]] == list(TASKS)
    assert {task.name for task in tasks} == set(TASKS)


def test_the_report_tells_gains_on_emoji_over_the_start():
    before = {f"before-{s}": of_emoji("0101" * 50, fid=6.0) for s in (0, 1, 2)}
    after = {f"reward-soft-{s}": of_emoji("0111" * 50, fid=5.0 + s / 10) for s in (0, 1, 2)}
    text = report_of_emoji.section({"emoji": {**before, **after}})
    assert "| before | 0.500 ± 0.000 (3 seeds) |" in text
    assert "| reward-soft | 0.750 ± 0.000 (3 seeds) |" in text
    assert "5.100 ± 0.100 (3 seeds)" in text
    gained = next(claim for claim in OF_EMOJI if "hundreds of things" in claim.text)
    found = gained.measure({"emoji": {**before, **after}})
    assert gained.verdict(found) == claims.REPRODUCED
    assert gained.measure({}) is None


def of_emoji(true, fid):
    return {"true": true, "name": true, "fid_emoji": fid, "recall": 0.5, emoji.WATCHING: 0.1}
