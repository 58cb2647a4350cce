"""What a model card says of a student: everything that is known, nothing that is not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dimo_cli.cards.licenses import License
from dimo_cli.run_folder.effort import Effort
from dimo_cli.run_folder.nats import TeacherKl
from dimo_cli.specs.push import Footprint

if TYPE_CHECKING:
    from dimo_cli.specs.manifest import StudentManifest

COUNTED = re.compile(r"^([a-z]+)(?:_k\d+|\d+k?)$")  # fid50k, precision_k3
WITHOUT_EFFECT = ("sampler.top_k", "sampler.top_p")  # where they are 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of a student, and all that another one must share to be comparable."""

    metric: str
    value: float
    protocol: Mapping[str, str]

    @property
    def kind(self) -> str:
        """The metric without its sample count or neighbors: `fid` of `fid50k`."""
        match = COUNTED.match(self.metric)
        return match.group(1) if match else self.metric

    @property
    def title(self) -> str:
        """The metric's name with its protocol, hashes left out."""
        told = [
            f"{key} {text}"
            for key, text in self.protocol.items()
            if "sha256" not in key and not (key in WITHOUT_EFFECT and text in ("0", "0.0"))
        ]
        return f"{self.metric} ({', '.join(told)})" if told else self.metric

    @property
    def reference(self) -> str:
        """What the images were held against."""
        named = self.protocol.get("reference") or self.protocol.get("prompts")
        count = self.protocol.get("reference_images")
        return named or (f"{count} reference images" if count else "no reference")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a run's closing table: a sampler and its number."""

    sampler: str
    metric: str
    value: float


@dataclass(frozen=True)
class CardFacts:
    """All that a card says; what is not known is left out of it."""

    manifest: StudentManifest
    takes_prompts: bool
    image_size: int
    parameters: int
    example: str | int
    """A prompt or a class to draw."""
    license: License
    base_model: str | None = None
    """Repository of the teacher."""
    repository: str | None = None
    """Where the student is published; None: a folder on this machine."""
    measured: tuple[Measured, ...] = ()
    rows: tuple[Row, ...] = ()
    """The closing table of its run."""
    teacher_kl: TeacherKl | None = None
    """How far it was from its teacher as its run ended, if that was measured."""
    spec_yaml: str | None = None
    effort: Effort | None = None
    footprint: Footprint = field(default_factory=Footprint)

    @property
    def task(self) -> str:
        """The Hub's name of what it does; there is none for images of a class."""
        return "text-to-image" if self.takes_prompts else "unconditional-image-generation"

    @property
    def name(self) -> str:
        """What the model is called."""
        teacher = self.manifest.teacher.name
        return (self.repository or f"{teacher}-student").rpartition("/")[2]

    @property
    def emissions(self) -> float | None:
        """Grams of CO2 equivalent: hours x watts x grid intensity; None if one is not known."""
        watts, intensity = self.footprint.watts, self.footprint.grid_intensity
        if self.effort is None or watts is None or intensity is None:
            return None
        return self.effort.hours * watts / 1000 * intensity
