"""What the readers of model folders share: what each declares alike, and how it is refused. Touches no mlx."""

from pathlib import Path
from typing import Any

from actors.model_config import ModelConfig
from actors.model_files import read_json
from bus.errors import RefusedError


def config_in(path: Path) -> dict[str, Any]:
    """Return config.json. Raises `RefusedError` if there is none, and `ModelFilesError` if it cannot be read."""
    said = read_json(path / "config.json")
    if not said:
        raise no_model(path)
    return said


def family_of(said: dict[str, Any]) -> str:
    """Return the family of a model with this config.json, as Python modules are named; empty if it says none."""
    return ModelConfig(said).text("model_type").replace("-", "_")


def needed(path: Path, config: ModelConfig, name: str) -> int:
    """Return the number `name`. Raises `RefusedError` if it is not said."""
    number = config.number(name)
    if number is None:
        raise folder_refusal(path, f"does not say its {name}")
    return number


def packing_in(path: Path, said: dict[str, Any]) -> dict[str, Any] | None:
    """Return how the weights are packed; None if they are not. Raises `RefusedError` for another way than mlx's."""
    packed = said.get("quantization") or said.get("quantization_config")
    if packed and not (isinstance(packed, dict) and {"bits", "group_size"} <= packed.keys()):
        raise folder_refusal(path, "is quantised in a way that is not supported")
    return packed


def no_model(path: Path) -> RefusedError:
    """Return what is told where there is no folder of a model."""
    return RefusedError("model_not_found", f"There is no model {path.name}.", param="model")


def folder_refusal(path: Path, why: str) -> RefusedError:
    """Return what is told of the folder of a model that is not served."""
    return RefusedError("invalid_request", f"The model {path.name} {why}.", param="model")
