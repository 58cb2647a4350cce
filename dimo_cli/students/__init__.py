"""One-step generators: in memory, in a folder, and on the Hub."""
