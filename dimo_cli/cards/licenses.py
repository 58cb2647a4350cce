"""Under which license a student may be published: the one of its teacher, if that allows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dimo_cli.cards.markdown import code, words
from dimo_cli.cards.markdown import link as linked
from dimo_cli.errors import SpecError


@dataclass(frozen=True, slots=True)
class Terms:
    """What a license asks of whoever passes on a changed version."""

    sentence: str
    may_share_changes: bool = True


OPENRAIL = Terms(
    "The license's use restrictions hold for this student too: pass them on with every copy, and "
    "make them part of your own terms."
)
FREE = Terms("Keep the copyright notice and the license text with every copy.")
# By the identifiers that the Hub uses. A license that is not here is not judged.
KNOWN: Mapping[str, Terms] = {
    "apache-2.0": FREE,
    "mit": FREE,
    "bsd-2-clause": FREE,
    "bsd-3-clause": FREE,
    "cc0-1.0": Terms("The teacher was given into the public domain."),
    "cc-by-4.0": Terms("Credit the makers of the teacher and its data, and say what you change."),
    "cc-by-sa-4.0": Terms(
        "Credit the makers of the teacher, and share changes under this license."
    ),
    "cc-by-nc-4.0": Terms("No commercial use. Credit the makers of the teacher."),
    "cc-by-nc-sa-4.0": Terms(
        "No commercial use. Credit the makers of the teacher, and share changes under this license."
    ),
    "cc-by-nd-4.0": Terms("No changed version may be shared.", may_share_changes=False),
    "cc-by-nc-nd-4.0": Terms("No changed version may be shared.", may_share_changes=False),
    "openrail": OPENRAIL,
    "openrail++": OPENRAIL,
    "creativeml-openrail-m": OPENRAIL,
    "bigscience-openrail-m": OPENRAIL,
}


@dataclass(frozen=True, slots=True)
class License:
    """A license as a model card states it; `name` and `link` are of one the Hub has no id for."""

    id: str
    sentence: str
    name: str | None = None
    link: str | None = None


def license_of(declared: str) -> License:
    """The license of a teacher as it is declared, whatever it allows."""
    identifier = declared.lower()
    if identifier in KNOWN:
        return License(identifier, KNOWN[identifier].sentence)
    sentence = f"The teacher's license is {code(declared)}, whose terms dimo does not know."
    return License("other", sentence, name=declared)


def license_to_publish(
    teacher: str, declared: str, name: str | None = None, link: str | None = None
) -> License:
    """The license of a student that is to be published, or why it must not be.

    `name` and `link` are the user's word on a license that is not known here.
    """
    terms = KNOWN.get(declared.lower())
    if terms is None:
        if name is None or link is None:
            raise SpecError(
                f"The license of `{teacher}` is `{declared}`: dimo cannot tell whether a student "
                "of it may be published.",
                "Read its terms. If they allow it, name them: `--license-name NAME "
                "--license-link URL`.",
            )
        sentence = f"The terms are those of the teacher: {linked(words(name), link)}."
        return License("other", sentence, name, link)
    if not terms.may_share_changes:
        raise SpecError(
            f"`{teacher}` is licensed {declared}, which forbids sharing changed versions, and a "
            "student is one.",
            "Keep it to yourself, or ask the teacher's makers for a permission.",
        )
    if name is not None:
        raise SpecError(
            f"`--license-name` is {name!r}, but `{teacher}` is licensed {declared}, and so is "
            "its student.",
            "Leave it out.",
        )
    return license_of(declared)
