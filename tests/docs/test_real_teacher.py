"""The page about a real teacher says the hours that the program says."""

import pytest

from dimo_cli.planning.hours import DOLLARS_AN_HOUR
from tests.docs.shown import text_of


@pytest.mark.usefixtures("unrehearsed")
def test_hours_and_cost_of_the_page_are_those_of_the_dry_run(dimo):
    import json

    told = dimo("distill", "--preset", "maskbit", "--dry-run", "--json", "--force")
    hours = json.loads(told.stdout)["hours"]
    page = text_of("docs/real-teacher.md")
    assert f"at least {hours['h100_hours']:.0f} hours" in page
    assert f"${hours['dollars']:.0f} at ${DOLLARS_AN_HOUR:.2f} an hour" in page
