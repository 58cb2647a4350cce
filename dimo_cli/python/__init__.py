"""dimo for people who write Python: the commands as functions, and runs as objects."""
