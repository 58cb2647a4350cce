"""What was written is read again, and compared with what was written down about it."""
