"""Write every generated page and picture: python -m docs (or `make docs`).

--costs first counts anew what the presets cost, which takes some eight minutes.
"""

import argparse
import sys

from docs.generator.costs import write_costs
from docs.generator.filled import fill_pages
from docs.generator.measured import write_measured
from docs.generator.pages import write_pages

parser = argparse.ArgumentParser(prog="python -m docs")
parser.add_argument("--costs", action="store_true", help="count memory and FLOPs of presets anew")
if parser.parse_args().costs:
    write_costs()
measured = ["presets/measured.json"] if write_measured() else []
changed = [*measured, *fill_pages(), *write_pages()]
sys.stdout.write("".join(f"{path}\n" for path in changed) or "Every page is up to date.\n")
