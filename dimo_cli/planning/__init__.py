"""What a run would need, before it runs: memory, downloads, work, and whether this machine does."""
