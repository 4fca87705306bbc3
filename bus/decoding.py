"""From bytes to messages: says what is wrong in words that name the field."""

import re
from itertools import accumulate
from typing import TypeVar

import msgspec

from bus.allowed import allowed
from bus.errors import RefusedError

T = TypeVar("T")

# Deeper, what passes here is too deep to be packed into another message, or to be read again from the log.
_DEEPEST = 200
# All of a valid JSON but the brackets that nest.
_FLAT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^]["{}]+')

# Strings, of which those outside of all but one bracket are followed by a value of theirs, and the brackets that nest.
_NESTING = re.compile(rb'"(?P<string>[^"\\]*(?:\\.[^"\\]*)*)"|[]["{}]')

# A character beyond the first 65,536 is two halves in JSON. For one half alone msgspec blames the end of the body.
_HALVES = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]..")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")
_FIELD = re.compile(r"(?:unknown|missing required) field `(?P<field>[^`]+)`")


def decode(decoder: msgspec.json.Decoder[T], payload: bytes) -> T:
    """Return the message in `payload`. Raises `RefusedError` whose `param` is the field at fault."""
    try:
        # msgspec does not look into what it leaves as it is (`Raw`).
        payload.decode()
        message = decoder.decode(payload)
    except msgspec.ValidationError as error:
        raise refusal(error, decoder.type) from error
    except msgspec.DecodeError as error:
        half = _HALF.search(_HALVES.sub(b"", payload))
        why = f"{error}; {half[0].decode()} is half a character" if half else error
        raise RefusedError("invalid_request", f"The body is not valid JSON: {why}.") from error
    except UnicodeDecodeError as error:
        raise RefusedError("invalid_request", "The body is not valid UTF-8.") from error
    except RecursionError as error:
        raise _too_deep(payload) from error
    if _depth(payload) > _DEEPEST:
        raise _too_deep(payload)
    return message


def refusal(error: msgspec.ValidationError, kind: object, where: str = "") -> RefusedError:
    """Return the refusal that tells of `error`, by which something is no `kind`; it stood at `where`.

    msgspec writes the place as a JSON path at the end of its message, and an unknown or a missing field inside it.
    """
    text = str(error)
    at = _PATH.search(text)
    path = at["path"] if at else ""
    field = _FIELD.search(text)
    if field:
        path = f"{path}.{field['field']}" if path else field["field"]
    reason = _PATH.sub("", text)
    if reason.startswith("Invalid ") and (values := allowed(kind, path)):
        reason += f"; it may be {', '.join(map(repr, values))}"
    unknown = "unknown field" in reason
    whole = f"{where}.{path}" if where and path else where or path
    message = f"{reason} (in '{whole}')." if whole and not field else f"{reason}."
    return RefusedError("unsupported_parameter" if unknown else "invalid_request", message, param=whole or None)


def _depth(payload: bytes) -> int:
    """Return how deep valid JSON is nested, or a number that it does not exceed if that is small enough."""
    most = payload.count(b"[") + payload.count(b"{")
    if most <= _DEEPEST:
        return most
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in _FLAT.sub(b"", payload)), default=0)


def _too_deep(payload: bytes) -> RefusedError:
    """Return the refusal that names the outermost field in which `payload` is nested too deeply."""
    depth, field = 0, b""
    for token in _NESTING.finditer(payload):
        if token["string"] is None:
            depth += 1 if token[0] in (b"[", b"{") else -1
        elif depth == 1:
            field = token["string"]
        if depth > _DEEPEST:
            break
    message = f"The body is nested more than {_DEEPEST} deep."
    return RefusedError("invalid_request", message, param=field.decode(errors="replace") or None)
