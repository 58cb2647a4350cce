"""The documentation. `python -m docs` writes the part of it that follows from the program."""
