"""Gives mlx a fast BLAS on Linux. Called before anything imports mlx; imports no mlx itself.

The mlx wheel for Linux links the reference BLAS, which is 15 to 100 times slower than OpenBLAS in float32.
Loading OpenBLAS with global symbols first makes the loader bind mlx's calls to it.
"""

import ctypes
import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def prepare_blas() -> str:
    """Load OpenBLAS where it helps and return the name of the BLAS that mlx is going to use.

    The first statement of every process that uses mlx. Later calls return the same name.
    Without OpenBLAS on the machine everything works, slowly. Raises `RuntimeError` on Linux if mlx is
    imported already, because then it has bound the slow BLAS for good.
    """
    if sys.platform == "darwin":
        return "accelerate"
    if _is_loaded():
        return "openblas"
    if "mlx.core" in sys.modules:
        raise RuntimeError("prepare_blas() came after the first import of mlx.core and cannot help any more")
    # Two actors with two threads each fight for the cores: one small product took 26 ms instead of 0.2.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if _has_avx512():
        # Debian's OpenBLAS takes new AMD processors for the older "Zen" and halves their speed.
        os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")
    with suppress(OSError):
        ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
        return "openblas"
    return "netlib (reference, slow)"


def _is_loaded() -> bool:
    """Say whether OpenBLAS is in this process, for example by LD_PRELOAD."""
    # numpy brings a private libscipy_openblas, which mlx does not see: hence the slash.
    return "/libopenblas" in Path("/proc/self/maps").read_text(encoding="utf-8")


def _has_avx512() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return "avx512f" in flags and "avx512bw" in flags
