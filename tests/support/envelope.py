"""OpenAI's error envelope."""

import json
from typing import Any

import jsonschema
from aiohttp import ClientResponse

ENVELOPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 5},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}


async def error_of(response: ClientResponse) -> dict[str, Any]:
    """Return what is in the envelope, which must be as OpenAI's clients read it."""
    assert response.content_type == "application/json"
    assert response.headers["x-request-id"]
    content = json.loads(await response.read())
    jsonschema.validate(content, ENVELOPE)
    error: dict[str, Any] = content["error"]
    return error
