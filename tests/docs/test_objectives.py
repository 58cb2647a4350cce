"""The page of objectives has every field of those that have fields."""

from pathlib import Path

import pytest

from dimo_cli.specs.objectives import SETTINGS

PAGE = Path(__file__).parents[2] / "docs" / "add-an-objective.md"


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_every_field_of_an_objective_is_on_the_page(kind):
    page = PAGE.read_text(encoding="utf-8")
    assert f"| `{kind}` |" in page
    for name in SETTINGS[kind].model_fields:
        assert f"`{name}`" in page
