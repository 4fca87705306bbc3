"""The registry of webhooks: a bucket of key and value in NATS, because the log forgets and everyone may read it.

The webhooks actor is its only writer and keeps a copy.
"""

from datetime import datetime

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.errors import APIError, NoKeysError, NotFoundError
from nats.js.kv import KeyValue

from bus.client import Bus, again_if_lost
from bus.errors import LostError, RefusedError
from bus.messages.webhooks import WebhookEventKind, WebhookStatus
from bus.streams import ensure_stream, webhooks_bucket


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook as it is kept. It is told what the log has behind the sequence `since`."""

    webhook_id: str
    url: str
    events: tuple[WebhookEventKind, ...]
    secret: str
    status: WebhookStatus
    created_at: datetime
    since: int
    description: str = ""

    def disabled(self) -> "Webhook":
        """Return it as one that is told nothing any more."""
        return msgspec.structs.replace(self, status="disabled")


_decoder = msgspec.json.Decoder(Webhook)


class Registry:
    """All webhooks, once it was read."""

    def __init__(self, bus: Bus) -> None:
        self._nc = bus.nc
        self._bucket: KeyValue | None = None
        self._webhooks: dict[str, Webhook] = {}

    async def read(self) -> None:
        """Read the bucket, which is made when it is not there. Raises `LostError`."""
        await ensure_stream(self._nc, webhooks_bucket())
        try:
            found = await again_if_lost(self._nc, self._kept)
        except (NatsError, TimeoutError) as error:
            raise _lost() from error
        self._webhooks = {each.webhook_id: each for each in sorted(found, key=lambda each: each.created_at)}

    @property
    def webhooks(self) -> tuple[Webhook, ...]:
        """All webhooks, the oldest first."""
        return tuple(self._webhooks.values())

    def find(self, webhook_id: str) -> Webhook | None:
        """Return the webhook, or None when there is none."""
        return self._webhooks.get(webhook_id)

    async def put(self, webhook: Webhook) -> None:
        """Keep `webhook`, in place of what was kept under its id. Raises `RefusedError` when there is no room."""
        try:
            value = msgspec.json.encode(webhook)
            await again_if_lost(self._nc, lambda: self._open.put(webhook.webhook_id, value))
        except APIError as error:
            raise RefusedError("storage_full", f"The webhook cannot be kept: {error.description}.") from error
        except (NatsError, TimeoutError) as error:
            raise _lost() from error
        self._webhooks[webhook.webhook_id] = webhook

    async def delete(self, webhook_id: str) -> None:
        """Forget the webhook, its secret included."""
        try:
            await again_if_lost(self._nc, lambda: self._open.purge(webhook_id))
        except (NatsError, TimeoutError) as error:
            raise _lost() from error
        self._webhooks.pop(webhook_id, None)

    async def _kept(self) -> list[Webhook]:
        self._bucket = await JetStreamContext(self._nc).key_value(_BUCKET)
        try:
            return [_decoder.decode(await self._value(key)) for key in await self._bucket.keys()]
        except NoKeysError:
            return []

    async def _value(self, key: str) -> bytes:
        try:
            return (await self._open.get(key)).value or b""
        except NotFoundError as error:
            raise _lost() from error  # Somebody else writes here.

    @property
    def _open(self) -> KeyValue:
        assert self._bucket is not None  # noqa: S101 - read comes first
        return self._bucket


_BUCKET = "fusion_webhooks"


def _lost() -> LostError:
    return LostError("unavailable", "The bucket of the webhooks does not answer.", retry_after=1)
