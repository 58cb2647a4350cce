"""The scores of the benchmark of `emoji`, read off pictures by a network."""

from __future__ import annotations

from typing import Any

from dimo_cli.data.arrays import Batch
from dimo_cli.metrics.emoji import FACTS, HELD_OUT, TASKS, right_of
from dimo_cli.metrics.emoji_reader import SURE, EmojiNetwork
from dimo_cli.metrics.geneval import summarize
from dimo_cli.metrics.per_image import PerImage, PromptMetric
from dimo_cli.metrics.prompts import PromptSet
from dimo_cli.metrics.protocol import Result


class EmojiTruth(PromptMetric):
    """The share of pictures on which all that the prompt says is right, by task and overall."""

    name = "emoji"

    def __init__(self, prompts: PromptSet, reader: EmojiNetwork) -> None:
        super().__init__()
        self.prompts, self.reader = prompts, reader
        self.facts = {fact: PerImage() for fact in FACTS}

    def score(self, batch: Batch) -> list[float]:
        self.prompts.check(batch.first, batch.prompts)
        scores = []
        for image, seen in enumerate(self.reader.looks(batch.images), start=batch.first):
            right = right_of(self.prompts.requests[self.prompts.prompt_number(image)], seen)
            for fact, value in right.items():
                self.facts[fact].add(image, [float(value)])
            scores.append(float(all(right.values())))
        return scores

    def restart(self, images: int) -> None:
        super().restart(images)
        self.facts = {fact: PerImage() for fact in FACTS}

    def reduce(self) -> None:
        super().reduce()
        for numbers in self.facts.values():
            numbers.reduce()

    def results(self) -> list[Result]:
        rows = [self.prompts.prompt_number(image) for image in self.scores.numbers()]
        tags, right = [self.prompts.tags[row] for row in rows], self.scores.tensor().tolist()
        asked = [at for at, tag in enumerate(tags) if tag != HELD_OUT]
        overall, *by_task = summarize(
            self.name,
            TASKS,
            [tags[at] for at in asked],
            [rows[at] for at in asked],
            [right[at] for at in asked],
            self.protocol(),
        )
        known = {fact: numbers.tensor() for fact, numbers in self.facts.items()}
        overall.details["facts"] = {fact: float(t.mean()) for fact, t in known.items() if len(t)}
        apart = [value for value, tag in zip(right, tags, strict=True) if tag == HELD_OUT]
        if apart:
            share = sum(apart) / len(apart)
            overall.details[HELD_OUT] = share
            protocol = by_task[0].protocol
            by_task.append(Result(f"emoji_{HELD_OUT}", share, protocol, {"images": len(apart)}))
        return [overall, *by_task]

    def judge(self) -> dict[str, Any]:
        return {"reader": {"name": self.reader.name, "sha256": self.reader.sha256, "sure": SURE}}

    def protocol(self) -> dict[str, Any]:
        """What has to be equal for two scores to be comparable."""
        return {**self.judge(), **self.prompts.protocol()}
