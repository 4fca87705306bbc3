import subprocess
import sys


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_name_of_the_blas_is_returned_without_importing_mlx() -> None:
    process = run(
        "import sys; from actors.engines.blas import prepare_blas; "
        "print(prepare_blas() == prepare_blas(), 'mlx.core' in sys.modules)"
    )

    assert process.stdout.split() == ["True", "False"], process.stderr


def test_preparing_after_mlx_was_imported_is_an_error_where_it_is_too_late() -> None:
    process = run(
        "import sys, mlx.core; from actors.engines.blas import prepare_blas\n"
        "try: print(prepare_blas())\n"
        "except RuntimeError: print('late')"
    )

    assert process.stdout.strip() == ("accelerate" if sys.platform == "darwin" else "late"), process.stderr
