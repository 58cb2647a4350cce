"""`make quick` runs the tests that belong to what has changed."""

import subprocess
import time

import pytest

from tests import quick

TESTS = {
    "tests/metrics/test_fid.py": {"dimo_cli.metrics.fid"},
    "tests/runs/test_distill.py": {"dimo_cli.metrics.fid", "tests.helpers.tiny"},
    "tests/files/test_png.py": {"dimo_cli.files.png"},
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("dimo_cli/metrics/fid.py", ["tests/metrics/test_fid.py", "tests/runs/test_distill.py"]),
        ("tests/helpers/tiny.py", ["tests/runs/test_distill.py"]),
        ("tests/files/test_png.py", ["tests/files/test_png.py"]),
        ("README.md", []),
    ],
)
def test_a_change_brings_its_own_tests_and_those_that_import_it(changed, expected):
    assert quick.tests_of([changed], TESTS) == [*quick.ALWAYS, *expected]


def test_what_changed_among_the_tests_comes_first():
    changed = ["dimo_cli/metrics/fid.py", "tests/files/test_png.py"]
    assert quick.tests_of(changed, TESTS)[1:3] == [
        "tests/files/test_png.py",
        "tests/metrics/test_fid.py",
    ]


def test_imports_are_seen_wherever_they_stand():
    tests = quick.imports_of_tests()
    assert "tests.quick" in tests["tests/test_quick.py"]
    assert "dimo_cli.planning.plan" in tests["tests/planning/test_plan.py"]


def test_time_that_is_over_is_no_failure(capfd, tmp_path, monkeypatch):
    slow, begun, wait = tmp_path / "test_slow.py", tmp_path / "begun", subprocess.Popen.wait

    def wait_until_begun(process, timeout=None):
        """The time is over as soon as the test runs."""
        while timeout and process.poll() is None and not begun.exists():
            time.sleep(0.02)
        if timeout is None or not begun.exists():
            return wait(process)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_until_begun)
    code = f"open({str(begun)!r}, 'w').close()\n    time.sleep(60)\n"
    slow.write_text(f"import time\n\ndef test_it():\n    {code}")
    assert quick.run([str(slow), "-n", "0", "--rootdir", str(tmp_path)], seconds=600) == 0
    assert "make test" in capfd.readouterr().out


def test_a_failure_is_one(tmp_path):
    wrong = tmp_path / "test_wrong.py"
    wrong.write_text("def test_it():\n    assert False\n")
    assert quick.run([str(wrong), "-n", "0", "--rootdir", str(tmp_path)], seconds=60) == 1
