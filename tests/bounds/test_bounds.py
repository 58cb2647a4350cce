"""Which versions of other packages are allowed: what is stated can be installed and is tested."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.version import Version

from tests.bounds.lowest import PYPROJECT, constraints, requirements

LOCK = PYPROJECT.with_name("requirements.lock")
PINNED = re.compile(r"^([\w.-]+)==([^ ;\\]+)(.*(?:\n +--hash.*)*)", re.MULTILINE)
PROJECT = tomllib.loads(PYPROJECT.read_text())["project"]
# Their new major versions are made often and rarely break anybody.
OPEN = {"rich", "pillow", "markupsafe", "psutil"}


@pytest.mark.parametrize("text", requirements(PROJECT))
def test_every_requirement_has_a_lower_bound(text):
    assert requirements(PROJECT)[text], f"{text} is not of the form name>=1.2 or name>=1.2,<2"


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_a_package_that_could_break_dimo_has_an_upper_bound(text):
    match = requirements(PROJECT)[text]
    assert match["next"] or match["name"] in OPEN
    if match["next"]:
        assert Version(match["lowest"]) < Version(match["next"])


@pytest.mark.parametrize("text", requirements(PROJECT))
def test_what_is_tested_here_is_within_the_bounds(text):
    match = requirements(PROJECT)[text]
    try:
        installed = Version(version(match["name"]))
    except PackageNotFoundError:
        pytest.skip("an extra that is not installed")
    assert installed >= Version(match["lowest"])
    assert match["next"] is None or installed < Version(match["next"])


def test_a_package_that_is_named_twice_has_the_same_bounds():
    bounds = {}
    for match in requirements(PROJECT).values():
        name = match["name"].lower()
        assert bounds.setdefault(name, match.group()) == match.group()


def test_the_lowest_versions_are_constraints_for_pip():
    lines = constraints(PROJECT)
    assert "torch==2.10" in lines
    assert len(lines) == len({line.split("==")[0] for line in lines})


def locked():
    """The versions that the lock file allows of each package; some depend on Python's version."""
    versions = {}
    for name, pinned, _ in PINNED.findall(LOCK.read_text()):
        versions.setdefault(name.lower().replace("_", "-"), []).append(Version(pinned))
    return versions


DEV = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]


@pytest.mark.parametrize("text", DEV)
def test_what_is_locked_is_within_the_bounds(text):
    match = requirements(PROJECT)[text]
    versions = locked()[match["name"].lower().replace("_", "-")]
    assert min(versions) >= Version(match["lowest"])
    assert match["next"] is None or max(versions) < Version(match["next"])


def test_everything_that_is_locked_has_a_hash():
    missing = [name for name, _, rest in PINNED.findall(LOCK.read_text()) if "--hash=" not in rest]
    assert not missing
    assert len(locked()) > len(DEV)


def test_the_lock_file_names_no_other_index_and_no_folder():
    lines = LOCK.read_text().splitlines()
    assert not [line for line in lines if "://" in line or line.lstrip().startswith(("-i", "/"))]
