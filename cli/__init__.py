"""The `fusion` command: a client of the bus, and the one that starts everything."""
