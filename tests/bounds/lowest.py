"""The lowest versions that pyproject.toml allows, as constraints of pip: `make bounds`."""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)>=(?P<lowest>[\w.]+)(,<(?P<next>[\w.]+))?$")


def requirements(project):
    """Every requirement of the package and its extras, each with a lower bound."""
    extras = project["optional-dependencies"].values()
    texts = dict.fromkeys([*project["dependencies"], *chain.from_iterable(extras)])
    return {text: REQUIREMENT.match(text) for text in texts}


def constraints(project):
    """A line for each: the lowest of the versions that are allowed."""
    lowest = {match["name"].lower(): match["lowest"] for match in requirements(project).values()}
    return [f"{name}=={version}" for name, version in sorted(lowest.items())]


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(tomllib.loads(PYPROJECT.read_text())["project"])) + "\n")
