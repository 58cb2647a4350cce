"""What the README and the pages of docs/ show in fenced blocks: commands, their output, code."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash", "console")
# Blocks in other languages show no commands.
OTHERS = ("python", "yaml", "toml", "json", "text", "diff")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    body: str

    @property
    def is_script(self):
        """Whether it is a whole file, such as a job for a scheduler."""
        return self.body.startswith("#!")


@dataclass(frozen=True)
class Shown:
    """A command of a page, and the lines that it is shown to print."""

    page: str
    line: int
    text: str
    output: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.page}:{self.line}: {self.text}"

    @property
    def words(self):
        """The command word by word, without comments, variables in front, and a redirection."""
        words = shlex.split(self.text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        return words[: words.index(">")] if ">" in words else words

    @property
    def variables(self):
        """What is set for the command alone."""
        found = {}
        for word in shlex.split(self.text, comments=True):
            if not re.fullmatch(r"[A-Z_]+=.*", word):
                break
            name, _, found[name] = word.partition("=")
        return found

    @property
    def file(self):
        """Where its output goes; None: the terminal."""
        words = shlex.split(self.text, comments=True)
        return words[words.index(">") + 1] if ">" in words else None

    @property
    def is_refused(self):
        """Whether the page shows how the program refuses it."""
        return any(line.startswith("Error:") for line in self.output)


def pages():
    """Every page that a reader sees."""
    written = sorted((ROOT / "docs").rglob("*.md"))
    seen = [path for path in written if "generator" not in path.relative_to(ROOT).parts]
    return ["README.md", *(str(path.relative_to(ROOT)) for path in seen)]


def text_of(page):
    """A page as it is written."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page):
    """Every fenced block of a page, in order."""
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2])
        for match in FENCE.finditer(text)
    ]


def commands_of(block):
    """The commands of a block; a backslash at the end of a line goes on in the next."""
    if block.language not in SHELLS or block.is_script:
        return []
    lines, found = block.body.splitlines(), []
    for number, line in enumerate(lines):
        is_command = line.startswith("$ ") if block.language == "console" else line.strip()
        if is_command and not (number and lines[number - 1].endswith("\\")):
            end = number
            while lines[end].endswith("\\"):
                end += 1
            text = " ".join(part.rstrip("\\").strip() for part in lines[number : end + 1])
            if not text.startswith("#"):
                output = tuple(output_below(lines, end)) if block.language == "console" else ()
                text = text.removeprefix("$ ")
                found.append(Shown(block.page, block.line + number, text, output))
    return found


def output_below(lines, number):
    """What a console shows below a command."""
    for line in lines[number + 1 :]:
        if line.startswith("$ "):
            return
        if line.strip() not in ("", "..."):
            yield line


def table_commands(page):
    """The commands in the last column of a table of tasks."""
    rows = re.findall(r"^\| [^|]+ \|((?:.*`dimo .+`.*))\|$", text_of(page), flags=re.MULTILINE)
    found = [command for row in rows for command in re.findall(r"`(dimo [^`]+)`", row)]
    return [Shown(page, 0, command) for command in found if " " in command.removeprefix("dimo ")]


def all_commands():
    """Every command of every page."""
    found = [shown for page in pages() for block in blocks(page) for shown in commands_of(block)]
    return [*found, *table_commands("README.md")]
