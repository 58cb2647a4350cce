"""A notebook run cell by cell, without Jupyter."""

import ast
import json


def read_notebook(path):
    """A notebook as its file has it."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    """The code of a notebook's cells, in order."""
    cells = read_notebook(path)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_notebook(path):
    """Run all cells in one namespace: its names, and what the cells displayed."""
    shown = []
    names = {"__name__": "__main__", "display": shown.append}
    for number, text in enumerate(code_cells(path), start=1):
        tree = ast.parse(text)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{path.name}, cell {number}", "exec"), names)
        if last is not None:
            found = eval(
                compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), names
            )
            shown += [] if found is None else [found]
    return names, shown
