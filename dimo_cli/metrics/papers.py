"""What papers report of the methods of an arena: other teachers, other budgets, other forks.

They stand beside an arena's table to be looked at, and none of them compares with a number of it.
What a paper has no number of images for has no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dimo_cli.metrics.expected import DIMO, PUBLISHED, TABLE_1, TABLE_2, TABLE_3, Expected

README = "ReDi's README"
SECOND_HAND = "as others report"


@dataclass(frozen=True, slots=True)
class Reported:
    """A method's numbers as printed somewhere."""

    method: str
    """Its name in an arena."""
    title: str
    """What the paper calls the run."""
    teacher: str
    steps: int
    numbers: str
    source: str

    @property
    def cells(self) -> list[str]:
        """A row of a table."""
        return [self.title, self.teacher, str(self.steps), self.numbers, self.source]


def fid_and_is(fid: float, score: float) -> str:
    """FID and IS as one cell has them."""
    return f"FID {fid:.2f}, IS {score:.0f}"


def of_maskgit(
    method: str, title: str, steps: int, fid: float, score: float, source: str = TABLE_2
) -> Reported:
    """A student of MaskGit on ImageNet, 256 px."""
    return Reported(method, title, "maskgit", steps, fid_and_is(fid, score), source)


def of_dimo(teacher: str) -> Reported:
    """Di[M]O of one step, from the numbers that a measured one is held against."""
    found: dict[str, Expected] = {one.metric: one for one in PUBLISHED[teacher][DIMO]}
    source = {"maskgit": TABLE_2, "maskbit": TABLE_1}.get(teacher, TABLE_3)
    if "is" in found:
        numbers = fid_and_is(found["fid"].value, found["is"].value)
    else:
        numbers = f"GenEval {found['geneval'].value:.2f}, HPS {found['hps_v2.1'].value:.2f}"
    return Reported("dimo", DIMO, teacher, 1, numbers, source)


REPORTED = (
    *(of_dimo(teacher) for teacher in ("maskgit", "maskbit", "maskgen-l", "meissonic")),
    Reported("dmmd", "D-MMD, noise input", "CIFAR-10 model", 4, "FID 22.3", "arXiv 2603.20155"),
    Reported("dmmd", "D-MMD, noise input", "CIFAR-10 model", 8, "FID 12.7", "arXiv 2603.20155"),
    of_maskgit("fpd", "FPD", 1, 6.90, 215, SECOND_HAND),
    Reported("fpd", "FPD", "maskgen-l", 1, "GenEval 0.45", SECOND_HAND),
    of_maskgit("redi", "ReDi1", 1, 37.43, 49),
    of_maskgit("redi", "ReDi2", 1, 21.80, 90, README),
    of_maskgit("redi", "ReDi3-distill", 1, 11.68, 182),
    of_maskgit("redi", "ReDi1", 4, 7.58, 228),
    of_maskgit("redi", "ReDi2", 4, 7.86, 240),
    of_maskgit("sdtt", "SDTT", 1, 90.40, 14),
    of_maskgit("sdtt", "SDTT", 4, 8.97, 205),
    of_maskgit("di4c", "Di4C", 1, 90.32, 13),
    of_maskgit("di4c", "Di4C", 4, 6.79, 209),
    of_maskgit("di4c", "Di4C-d", 4, 6.57, 214),
)


def reported(methods: Iterable[str]) -> list[Reported]:
    """What papers report of these methods, in the methods' order."""
    return [one for method in methods for one in REPORTED if one.method == method]


def unreported(methods: Iterable[str]) -> list[str]:
    """Those of which no paper has a number of images that could stand here."""
    known = {one.method for one in REPORTED}
    return [method for method in methods if method not in known]
