"""Whole processes; beside them, in this one, mlx for what their answers are held against."""

from actors.engines.blas import prepare_blas

# Before anything here imports mlx.
prepare_blas()
