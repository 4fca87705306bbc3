"""Trace context on the bus: W3C `traceparent` headers, through OpenTelemetry's API.

Without an OpenTelemetry SDK in the process these are no-ops, apart from passing on what came in.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate
from opentelemetry.context import Context


def inject(headers: dict[str, str]) -> dict[str, str]:
    """Return `headers` with the current trace context added."""
    propagate.inject(headers)
    return headers


@contextmanager
def extracted(headers: Mapping[str, str] | None) -> Iterator[None]:
    """Work inside the trace that `headers` tell of."""
    token = context.attach(_context(headers or {}))
    try:
        yield
    finally:
        context.detach(token)


def _context(headers: Mapping[str, str]) -> Context:
    try:
        return propagate.extract(headers)
    except UnicodeEncodeError:
        # Bytes that are no UTF-8 come as surrogates, which the reader of `baggage` takes for text.
        return Context()
