"""What is inside dimo, by name."""

SHIPPED = ("digits", "shapes", "emoji")
"""Teachers, each with a student that is built in by the same name."""
SHIPPED_STUDENTS = ", ".join(f"`{name}`" for name in SHIPPED)
