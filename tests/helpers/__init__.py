"""Helpers of tests: teachers, students, pictures and servers that are small or pretended."""
