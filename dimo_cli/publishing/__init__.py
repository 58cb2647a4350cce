"""A student made ready for the Hub, and sent there."""
