"""What a model's configuration says of how its weights are quantised."""

from collections.abc import Mapping
from typing import NamedTuple

from actors.model_config import ModelConfig

# What the methods that name no bits come down to in mlx-lm: a name, and the bits of a weight.
_METHODS = {
    "bitnet": ("2bit", 2),
    "compressed-tensors": ("4bit", 4),
    "fp8": ("fp8", 8),
    "modelopt": ("nvfp4", 4),
    "mxfp4": ("mxfp4", 4),
    "mxfp8": ("mxfp8", 8),
}


class Quantised(NamedTuple):
    """`name` is "4bit", "8bit", "mxfp4" or alike; `layers` are those with `bits` of their own."""

    name: str
    bits: int
    layers: Mapping[str, int]

    def bits_of(self, weight: str) -> int:
        """Return in how many bits the numbers of the tensor `weight` are packed."""
        return self.layers.get(weight.rpartition(".")[0], self.bits)


def quantised(config: ModelConfig) -> Quantised | None:
    """Return how the model with `config` is quantised, in mlx-lm's own way or in one that mlx-lm reads."""
    places = (config.part("quantization"), config.part("quantization_config"))
    for said in (*places, config.language.part("quantization_config")):
        if bits := said.number("bits"):
            mode = said.text("mode") or "affine"
            layers = {name: own for name, layer in said.parts().items() if (own := layer.number("bits"))}
            return Quantised(f"{bits}bit" if mode == "affine" else mode, bits, layers)
        if (method := said.text("quant_method")) in _METHODS:
            return Quantised(*_METHODS[method], {})
    return None
