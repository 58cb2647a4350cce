"""Soft-Di[M]O on the embedded teachers: what the papers claim, tried in the small world."""
