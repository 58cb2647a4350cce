"""A run folder from spec to student."""
