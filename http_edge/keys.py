"""API keys: whose request it is. Fusion tells clients apart by what they send, and knows no key itself."""

import hashlib

from aiohttp import web


def fingerprint(request: web.Request) -> str | None:
    """Return what stands for the client's API key in events and ids; None when it sent none.

    The first 12 hexadecimal digits of the SHA-256 of what stands in `Authorization: Bearer` or `x-api-key`: enough to
    tell keys apart, and too little to find one that is random.
    """
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    key = token.strip() if kind.lower() == "bearer" else request.headers.get("x-api-key", "")
    # Bytes of a header that are no UTF-8 come as surrogates.
    return f"key-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:12]}" if key else None
