"""Files on this machine: written whole, locked, and read with suspicion."""
