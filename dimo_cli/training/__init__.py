"""The loop around an algorithm: steps, checkpoints, averages, recovery, trackers."""
