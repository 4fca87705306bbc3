"""From bytes to messages: says what is wrong in words that name the field."""

import re
from itertools import accumulate
from typing import TypeVar

import msgspec

from bus.errors import RefusedError

T = TypeVar("T")

# Deeper, what passes here is too deep to be packed into another message, or to be read again from the log.
_DEEPEST = 200
# All of a valid JSON but the brackets that nest.
_FLAT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^]["{}]+')

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?:unknown|missing required) field `(?P<field>[^`]+)`")


def decode(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """Return the message in `payload`. Raises `RefusedError` whose `param` is the field at fault."""
    try:
        # msgspec does not look into what it leaves as it is (`Raw`).
        payload.decode()
        message = decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise refusal(error) from error
    except msgspec.DecodeError as error:
        raise RefusedError("invalid_request", f"The body is not valid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise RefusedError("invalid_request", "The body is not valid UTF-8.") from error
    except RecursionError as error:
        raise _too_deep() from error
    if _depth(payload) > _DEEPEST:
        raise _too_deep()
    return message


def refusal(error: msgspec.ValidationError) -> RefusedError:
    """Return the refusal that tells of `error`.

    msgspec writes where it stood as a JSON path at the end of its message, and an unknown or a missing
    field inside it.
    """
    text = str(error)
    at = _PATH.search(text)
    path = at["path"] if at else ""
    field = _FIELD.search(text)
    if field:
        path = f"{path}.{field['field']}" if path else field["field"]
    reason = _PATH.sub("", text)
    unknown = "unknown field" in reason
    message = f"{reason} (in '{path}')." if path and not field else f"{reason}."
    return RefusedError("unsupported_parameter" if unknown else "invalid_request", message, param=path or None)


def _depth(payload: bytes) -> int:
    """Return how deep valid JSON is nested, or a number that it does not exceed if that is small enough."""
    most = payload.count(b"[") + payload.count(b"{")
    if most <= _DEEPEST:
        return most
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in _FLAT.sub(b"", payload)), default=0)


def _too_deep() -> RefusedError:
    return RefusedError("invalid_request", "The body is nested too deeply.")
