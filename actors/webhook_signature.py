"""Signs webhooks by Standard Webhooks 1.0.0: HMAC-SHA256 over id, timestamp and body."""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from bus.errors import RefusedError

_PREFIX = "whsec_"


def new_secret() -> str:
    """Return a secret that nobody can guess."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def key_of(secret: str) -> bytes:
    """Return the key for HMAC that `secret` stands for.

    `whsec_` and the base64 of 24 to 64 bytes; of any other text its bytes in UTF-8. Raises `RefusedError`.
    """
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("What follows 'whsec_' is not base64.") from error
    if not 24 <= len(key) <= 64:
        raise _wrong(f"What follows 'whsec_' must be the base64 of 24 to 64 bytes, not of {len(key)}.")
    return key


def signed_headers(key: bytes, delivery_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of the body that is sent at `at`, in seconds since 1970."""
    digest = hmac.new(key, f"{delivery_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def kept_secret(path: Path) -> str:
    """Return the secret in the file, which is made, readable by its owner only, when it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.new")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.write(new_secret() + "\n")
        draft.replace(path)
    return path.read_text(encoding="utf-8").strip()


def _wrong(message: str) -> RefusedError:
    return RefusedError("invalid_request", message, param="secret")
