"""A field of a spec is an option by its declaration alone."""

import re
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from dimo_cli.commands.frame import command
from dimo_cli.commands.parameters import Fields, fields_of
from dimo_cli.errors import SpecError
from dimo_cli.specs.base import Flag, Int, Real, Spec
from dimo_cli.specs.evaluate import EvalSpec
from dimo_cli.specs.export import ExportSpec
from dimo_cli.specs.flags import Given
from dimo_cli.specs.launch import LaunchSpec
from dimo_cli.specs.push import PushSpec
from dimo_cli.specs.refine import RefineSpec
from dimo_cli.specs.sample import SampleSpec
from dimo_cli.specs.tteo import TteoSpec


class Brush(Spec):
    """What lies within."""

    width: Int = Field(3, ge=1, le=9, description="Width of a line")
    ink: Literal["black", "blue"] = Field("black", description="Color of a line")


class Picture(Spec):
    """A spec of some other program."""

    place: Annotated[str, Flag(is_argument=True)] = Field(..., description="Where to")
    words: Annotated[tuple[str, ...], Flag(names=("--word", "-w"))] = Field(
        (), description="What to draw; none: nothing"
    )
    scale: Real | None = Field(None, gt=0, description="How large; null: as it is")
    is_framed: Annotated[bool, Flag(names=("--frame",))] = Field(False, description="With a frame")
    brush: Brush = Field(default_factory=lambda: Brush(width=5), description="How lines are drawn")


def program(fields, asked):
    """A program with one command, which leaves what it was given in `asked`."""
    app = typer.Typer()

    @command(app, "paint", "paint x")
    def paint(given: Annotated[Given[Picture], fields], *, times: int = 1) -> None:
        """Paint."""
        asked.append((given, times))

    return app


def called(*words, fields=None):
    """What a command is given by a command line."""
    asked = []
    result = CliRunner().invoke(program(fields or Fields(), asked), words)
    assert result.exit_code == 0, result.output
    return asked[0][0]


def page(fields=None):
    result = CliRunner().invoke(
        program(fields or Fields(), []), ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    return {line.strip("│* "): line for line in result.output.splitlines()}


def line_of(name, fields=None):
    (line,) = (text for text in page(fields) if text.startswith(name))
    return " ".join(line.split())


def test_every_field_is_an_option_with_its_description_limits_and_default():
    assert line_of("--scale").endswith("How large; default: as it is; above 0.")
    assert "Width of a line; 1 to 9. [default: 5]" in line_of("--width")
    assert "Color of a line; one of black, blue. [default: black]" in line_of("--ink")
    assert "What to draw; default: nothing; repeatable." in line_of("--word")
    assert "--no-frame" not in line_of("--frame")
    assert "Where to." in line_of("place")


def test_what_nobody_wrote_is_not_given_even_where_it_is_the_default():
    assert called("x").values == {"place": "x"}
    assert called("x", "--width", "5").values == {"place": "x", "brush.width": 5}
    assert called("x", "-w", "a", "--word", "b").get("words") == ["a", "b"]


def test_a_group_keeps_what_its_spec_says_where_only_a_part_of_it_is_given():
    assert called("x", "--ink", "blue").spec() == Picture(
        place="x", brush=Brush(width=5, ink="blue")
    )
    assert called("x", "--width", "2").spec().brush == Brush(width=2)


def test_what_a_command_says_itself_goes_before():
    assert called("x", "--width", "2").spec({"brush.width": 4, "scale": 2.0}) == Picture(
        place="x", scale=2.0, brush=Brush(width=4)
    )


def test_a_command_takes_the_fields_that_it_names_and_says_of_them_what_it_likes():
    fields = Fields(only=("place", "brush"), without=("brush.ink",), said={"brush.width": "Wide"})
    assert "Wide; 1 to 9." in line_of("--width", fields)
    assert not [line for line in page(fields) if line.startswith(("--ink", "--word", "--scale"))]


def test_mistakes_are_told_by_the_flag_and_not_by_the_field():
    for words, sentence in (
        (("x", "--width", "12"), "`--width` is 12: must be less than or equal to 9."),
        (("x", "--ink", "blu"), "`--ink` is 'blu': must be one of black, blue. Did you mean"),
        (("x", "--scale", "nan"), "`--scale` is nan"),
    ):
        with pytest.raises(SpecError, match=f"^{re.escape(sentence)}"):
            called(*words).spec()


def test_what_is_given_to_a_spec_of_several_sources_has_an_origin():
    given = called("x", "--frame", "-w", "a", "--width", "2")
    assert given.layers() == {
        "argument PLACE": {"place": "x"},
        "flag --word": {"words": ["a"]},
        "flag --frame": {"is_framed": True},
        "flag --width": {"brush": {"width": 2}},
    }
    assert "flag --word b, c" in given.layers({"words": {"b": 1, "c": 2}})


def test_a_program_that_calls_a_command_passes_only_what_it_wants():
    asked = []
    (paint,) = (info.callback for info in program(Fields(), asked).registered_commands)
    paint(place="x", width=2)
    given, times = asked[0]
    assert given.values == {"place": "x", "brush.width": 2}
    assert times == 1


def test_all_fields_of_all_commands_are_described():
    for model in (EvalSpec, ExportSpec, LaunchSpec, PushSpec, RefineSpec, SampleSpec, TteoSpec):
        for field in fields_of(model):
            assert field.info.description, (model, field.path)
