"""Run folders and optimized prompts as they are left, and the page of them as it is read."""

import json
from html.parser import HTMLParser

import numpy as np

from dimo_cli.files.png import save_png
from dimo_cli.reporting.page import render
from dimo_cli.run_folder.origins import keep_origins
from dimo_cli.specs.render import to_yaml
from tests.conftest import small_spec

ATTACK = "<script>alert('owned')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The elements, ids and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.ids, self.text, self.hidden = [], [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self.hidden = tag in ("style", "script")

    def handle_endtag(self, tag):
        self.hidden = False

    def handle_data(self, data):
        if not self.hidden and data.strip():
            self.text.append(" ".join(data.split()))

    @property
    def words(self):
        return " ".join(self.text)

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def record(step, **values):
    return {
        "step": step, "divergence": 0.5 / step, "entropy": 2.0, "top1": 0.5,
        "student_gradient": 10.0 ** -(step % 5), "auxiliary_loss": 2.5, "auxiliary_gap": 0.5,
        "images_per_second": 100.0, "peak_memory_gib": 0.5, "skipped": 0, "rollbacks": 0, **values,
    }  # fmt: skip


def make_run(folder, steps=30, samples=3, records=None, **groups):
    """A run folder as a run leaves it on its way, without training."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = small_spec(train={"steps": steps}, **groups)
    (folder / "run.yaml").write_text(to_yaml(spec))
    keep_origins(folder, {"train.steps": "flag --set train.steps", "init": "preset digits, line 8"})
    records = [record(step) for step in range(1, steps + 1)] if records is None else records
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in records))
    noise = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    for index in range(samples):
        about = {"dimo.conditions": json.dumps(["zero", "one"])}
        save_png(noise, folder / "samples" / f"step-{10 * (index + 1):06d}.png", about)
    return folder


def page_of(folder):
    return Page(render(folder))


def make_outcome(folder, prompt, picture=True):
    folder.mkdir(parents=True)
    outcome = {
        "prompt": prompt, "score_before": 1.0, "score_best_of_n": 1.5, "score_after": 2.0,
        "rewards_before": {"clip": 1.0}, "rewards_after": {"clip": 2.0}, "start": 1,
        "trace": [[1.0, 1.5], [1.8, 2.0]], "seconds": 1.0, "times_a_plain_sample": 9.0,
        "origins": {"starts": "flag --starts of dimo tteo", "iterations": 3},
    }  # fmt: skip
    (folder / "outcome.json").write_text(json.dumps(outcome))
    spec = json.dumps({"starts": 2, "iterations": 1})
    for name in ("before", "after") if picture else ():
        about = {"dimo.tteo": spec, "dimo.student": "ab" * 32}
        save_png(np.zeros((8, 8, 3), np.uint8), folder / f"{name}.png", about)
