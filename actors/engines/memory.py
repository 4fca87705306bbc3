"""How much memory mlx holds."""

import sys


def allocated_bytes() -> int:
    """Return what mlx's arrays take, and what it keeps of freed ones; 0 for an engine that does not use mlx.

    Only counters are read, so this may be asked on any thread.
    """
    mlx = sys.modules.get("mlx.core")
    return mlx.get_active_memory() + mlx.get_cache_memory() if mlx else 0
