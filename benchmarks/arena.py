"""python -m benchmarks.arena FOLDER NAME: keep the numbers of an arena for the README's tables.

FOLDER is what `dimo arena` wrote; `python -m docs` then fills in the pages. Runs are named as those
of `runs/arena-NAME`, wherever they lay, and the document takes as few bytes as it can: numbers have
seven digits, more than any table shows, and means over seeds follow from the runs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parent / "results" / "arena"


def main() -> None:
    """Keep one arena."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arena", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    asked = parser.parse_args()
    written = asked.folder / "arena.json"
    if not written.is_file():
        parser.error(f"{written} is not there: name the folder that `dimo arena` wrote")
    place = Path("runs", f"arena-{asked.name}")

    def moved(found: dict[str, Any]) -> dict[str, Any]:
        """A run as if it lay there: PART/METHOD/RUN is what an arena's folder has."""
        if "run" in found:
            found["run"] = place.joinpath(*Path(found["run"]).parts[-3:]).as_posix()
        return found

    document = json.loads(
        written.read_text(encoding="utf-8"),
        object_hook=moved,
        parse_float=lambda digits: float(f"{float(digits):.7g}"),
    )
    for told in document["results"]:
        told.pop("numbers", None)
    path = KEPT / f"{asked.name}.json"
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
