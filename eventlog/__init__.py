"""The event log: events, what they add up to, and their projection into DuckDB; it never awaits."""
