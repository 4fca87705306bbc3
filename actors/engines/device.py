"""What mlx runs on here, as one JSON object on stdout: `python -m actors.engines.device`."""

import json
import time

from actors.engines.blas import prepare_blas


def main() -> None:
    """Print the device, the BLAS, and the speed of a float32 matrix product in GFLOP/s."""
    blas = prepare_blas()
    import mlx.core as mx  # noqa: PLC0415 - after the BLAS

    size = 512
    left = mx.random.normal((size, size))
    mx.eval(left @ left)
    begun = time.perf_counter()
    mx.eval(left @ left)
    gflops = 2 * size**3 / (time.perf_counter() - begun) / 1e9
    device = "Metal" if mx.metal.is_available() else "CPU"
    print(json.dumps({"device": device, "blas": blas, "gflops": gflops}))  # noqa: T201 - this is its output


if __name__ == "__main__":
    main()
