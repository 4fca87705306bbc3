"""Ollama's `options`, `format`, `think` and `keep_alive`: what is said of a generation beside its prompt."""

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from bus.errors import RefusedError
from bus.messages.chat import Grammar, JsonObject, JsonSchema
from http_edge.generation import refuse_unsupported

TopLogprobs = Annotated[int, Meta(ge=0, le=20)]
KeepAlive = float | str
Think = bool | Literal["low", "medium", "high"]

# Accepted and left out, because the answer is the same without it.
IGNORED = {
    "numa": "how llama.cpp uses the machine; mlx decides that for itself",
    "num_batch": "the same",
    "num_gpu": "the same",
    "main_gpu": "the same",
    "num_thread": "the same",
    "low_vram": "the same",
    "f16_kv": "the same",
    "use_mmap": "how llama.cpp reads the weights",
    "use_mlock": "the same",
    "num_keep": "how much of a prompt stays when the context is full; nothing of a prompt is ever dropped here",
    "mirostat_tau": "only read by mirostat",
    "mirostat_eta": "the same",
}

# Not implemented: refused, unless they say what happens anyway.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "mirostat": (0,),
    "tfs_z": (1, 1.0),
    "typical_p": (1, 1.0),
    # What mlx-lm looks back on.
    "repeat_last_n": (20,),
    "penalize_newline": (True,),
    "logits_all": (False,),
    "vocab_only": (False,),
    "embedding_only": (False,),
}

# Ollama's ways to say nothing.
_NO_LIMIT = (-1, -2)
_ANY_SEED = -1

# Go's durations, as in "1h30m".
_DURATION = re.compile(r"[-+]?([0-9]{1,9}(\.[0-9]{0,9})?(ns|us|µs|μs|ms|s|m|h))+|[-+]?0")
_PART = re.compile(r"([0-9.]+)([^0-9.]+)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says: what is implemented, then `NEUTRAL`, then `IGNORED`. Null means not said."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None
    num_predict: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    num_ctx: Annotated[int, Meta(ge=1)] | None = None

    mirostat: Any = None
    tfs_z: Any = None
    typical_p: Any = None
    repeat_last_n: Any = None
    penalize_newline: Any = None
    logits_all: Any = None
    vocab_only: Any = None
    embedding_only: Any = None

    numa: Raw = Raw()
    num_batch: Raw = Raw()
    num_gpu: Raw = Raw()
    main_gpu: Raw = Raw()
    num_thread: Raw = Raw()
    low_vram: Raw = Raw()
    f16_kv: Raw = Raw()
    use_mmap: Raw = Raw()
    use_mlock: Raw = Raw()
    num_keep: Raw = Raw()
    mirostat_tau: Raw = Raw()
    mirostat_eta: Raw = Raw()


def sampling(options: Options) -> dict[str, Any]:
    """Return what `options` say, for a `ChatRequest`. Raises `RefusedError` on what is not implemented."""
    refuse_unsupported(options, NEUTRAL, "options.")
    return {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "seed": None if options.seed == _ANY_SEED else options.seed,
        "stop": options.stop or (),
        "max_tokens": None if options.num_predict in _NO_LIMIT else options.num_predict,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }


def thinking(think: Think | None) -> dict[str, Any]:
    """Return `think` for a `ChatRequest`: a switch, or an effort."""
    return {"enable_thinking": think} if isinstance(think, bool) else {"reasoning_effort": think}


def seconds(keep_alive: KeepAlive | None) -> float | None:
    """Return how many seconds the model stays loaded: a number of them, or a duration. Negative is for ever.

    Raises `RefusedError` on another text.
    """
    if not isinstance(keep_alive, str):
        return keep_alive
    if not _DURATION.fullmatch(keep_alive):
        message = f"'keep_alive' can be a number of seconds or a duration such as '5m', not {keep_alive[:40]!r}."
        raise RefusedError("invalid_request", message, param="keep_alive")
    length = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(keep_alive))
    return -length if keep_alive.startswith("-") else length


def grammar(said: Raw) -> Grammar | None:
    """Return what the answer is kept to: nothing, any object, or a schema. Raises `RefusedError` on other formats."""
    if bytes(said) in {b"", b"null", b'""'}:
        return None
    if bytes(said) == b'"json"':
        return JsonObject()
    if not bytes(said).startswith(b"{"):
        raise RefusedError("invalid_request", "'format' can be 'json' or a JSON schema.", param="format")
    return JsonSchema(schema=said)
