"""Turns commands, specs, presets and logs into Markdown and pictures."""
