"""The engines: models behind small protocols; the only code that knows mlx."""
