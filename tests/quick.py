"""The tests of what has changed, for as long as there is time: `make quick`.

python -m tests.quick [--seconds N] [--list]

What has changed is what differs from where this branch left `main`, and what is not committed. The
tests of a file are those of its name in the folder of tests that mirrors its own, and all that
import it. What they leave out, `make test` runs.
"""

import argparse
import ast
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAIN = "main"
ALWAYS = ("tests/test_layout.py",)
INTERRUPTED = 2  # what pytest exits with when its time is over


def git(*arguments: str) -> list[str]:
    """What git says, line by line; nothing where it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files() -> list[str]:
    """All that differs from where this branch left the main one, new files among it."""
    base = (git("merge-base", "HEAD", MAIN) or ["HEAD"])[0]
    new = git("ls-files", "--others", "--exclude-standard")
    return sorted({*git("diff", "--name-only", "--no-renames", base), *new})


def module_of(file: str) -> str:
    """The name that a file of Python is imported by."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(tree: ast.AST) -> Iterator[str]:
    """All modules that a file imports, or may: of a name taken from a package both are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports_of_tests() -> dict[str, set[str]]:
    """What each file of tests imports."""
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
    return {file: set(imported(ast.parse((ROOT / file).read_text()))) for file in sorted(files)}


def mirror(file: str) -> str:
    """Where the tests of a file of the package are, if it has any of its own."""
    path = Path(file)
    return Path("tests", *path.parts[1:-1], f"test_{path.name}").as_posix()


def tests_of(changed: list[str], tests: dict[str, set[str]]) -> list[str]:
    """Files of tests, those that changed first, then the mirrored ones, then who imports."""
    python = [file for file in changed if file.endswith(".py")]
    modules = {module_of(file) for file in python}
    first = [file for file in python if file in tests]
    second = [mirror(file) for file in python if mirror(file) in tests]
    third = [file for file, names in tests.items() if names & modules]
    return list(dict.fromkeys([*ALWAYS, *first, *second, *third]))


def run(files: list[str], seconds: float) -> int:
    """Run tests until one fails or the time is over."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", *files]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            code = process.wait()
    if code == INTERRUPTED:
        say(f"Nothing failed in {seconds:g} seconds, and not all ran: the rest needs `make test`.")
        return 0
    return code


def say(line: str) -> None:
    """Tell whoever waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Say which tests belong to what changed, and run them."""
    parser = argparse.ArgumentParser(prog="python -m tests.quick", description=__doc__)
    parser.add_argument("--seconds", type=float, default=35.0, help="most that the tests may take")
    parser.add_argument("--list", action="store_true", help="only say which they are")
    asked = parser.parse_args()
    changed = changed_files()
    files = tests_of(changed, imports_of_tests())
    say(f"{len(changed)} changed files, {len(files)} files of tests: {' '.join(files)}")
    sys.exit(0 if asked.list else run(files, asked.seconds))


if __name__ == "__main__":
    main()
