"""Durable consumers: made once, pulled in batches, and moved to another place of the stream."""

import asyncio
import json
from contextlib import suppress

from msgspec import Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from bus.client import unless_lost
from bus.errors import LostError
from bus.pull import Delivery
from bus.streams import Json, StreamError, api, differences
from eventlog.events import Event, Unknown, decode

_NANO = 10**9
# JetStream's error codes for a consumer that is not there, and for one that is there already.
_NOT_FOUND = 10014
_EXISTS = 10148
_GRACE = 2.0
# No message now, or none in time, or the batch is over: what ends a pull as it should.
_ENDS = frozenset(("404", "408"))


class Taken(Struct, frozen=True):
    """A message that was pulled: its sequence in the stream, its event, and how it is acknowledged."""

    seq: int
    event: Event | Unknown
    raw: bytes
    delivery: Delivery


async def ensure_durable(nc: Client, stream: str, wanted: Json) -> None:
    """Create the durable consumer, or bring it to what is wanted. Raises `StreamError`, or `LostError`."""
    name = wanted["durable_name"]
    answer = await api(nc, f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": wanted})
    if "error" in answer:
        raise StreamError(f"{stream}/{name}: {answer['error'].get('description')}")
    wrong = differences(wanted, answer["config"])
    if wrong:
        raise StreamError(f"{stream}/{name}: the server keeps it otherwise than asked: {'; '.join(wrong)}")


async def create_durable(nc: Client, stream: str, wanted: Json) -> bool:
    """Create the durable consumer; return False when there is one of its name by now, which stays as it is.

    Raises `LostError`.
    """
    name = wanted["durable_name"]
    body = {"stream_name": stream, "config": wanted, "action": "create"}
    answer = await api(nc, f"CONSUMER.CREATE.{stream}.{name}", body)
    if "error" not in answer:
        return True
    if answer["error"].get("err_code") == _EXISTS:
        return False
    raise _refused(name, answer)


async def find_durable(nc: Client, stream: str, name: str) -> Json | None:
    """Return what the server tells of the consumer; None when there is none. Raises `LostError`."""
    answer = await api(nc, f"CONSUMER.INFO.{stream}.{name}")
    if "error" not in answer:
        return answer
    if answer["error"].get("err_code") == _NOT_FOUND:
        return None
    raise _refused(name, answer)


async def list_durables(nc: Client, stream: str) -> list[Json]:
    """Return what the server tells of all consumers of the stream. Raises `LostError`."""
    found: list[Json] = []
    while True:
        answer = await api(nc, f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        if "error" in answer:
            raise _refused(stream, answer)
        found += answer["consumers"] or ()
        if not answer["consumers"] or len(found) >= answer["total"]:
            return found


async def delete_durable(nc: Client, stream: str, name: str) -> None:
    """Delete the consumer, if it is there. Raises `LostError`."""
    answer = await api(nc, f"CONSUMER.DELETE.{stream}.{name}")
    if "error" in answer and answer["error"].get("err_code") != _NOT_FOUND:
        raise _refused(name, answer)


async def rewind(nc: Client, stream: str, name: str, seq: int | None = None) -> None:
    """Have the consumer go on at `seq`, or, unsaid, behind the last message that was acknowledged.

    What was handed out from there on is handed out again, in order. Raises `LostError`.
    """
    answer = await api(nc, f"CONSUMER.RESET.{stream}.{name}", None if seq is None else {"seq": seq})
    if "error" in answer:
        raise _refused(name, answer)


async def pull_batch(nc: Client, stream: str, name: str, limit: int, wait: float) -> list[Taken]:
    """Return the next messages, at most `limit`: those there are, or the first to come within `wait` seconds.

    Raises `LostError`.
    """
    found = await _pull(nc, stream, name, {"batch": limit, "no_wait": True}, _GRACE)
    if found or wait <= 0:
        return found
    return await _pull(nc, stream, name, {"batch": 1, "expires": int(wait * _NANO)}, wait + _GRACE)


async def _pull(nc: Client, stream: str, name: str, body: Json, patience: float) -> list[Taken]:
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        async with asyncio.timeout(patience):
            await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", json.dumps(body).encode(), reply=inbox)
            return await unless_lost(nc, _arrived(nc, subscription, name, body["batch"]))
    except (NatsError, TimeoutError) as error:
        raise LostError("unavailable", f"The consumer {name} does not answer.", retry_after=1) from error
    finally:
        with suppress(NatsError):
            await subscription.unsubscribe()


async def _arrived(nc: Client, subscription: Subscription, name: str, limit: int) -> list[Taken]:
    found: list[Taken] = []
    while len(found) < limit:
        msg = await subscription.next_msg(timeout=None)
        status = (msg.headers or {}).get("Status")
        if status in _ENDS:
            break
        if status is not None:
            raise LostError("unavailable", f"The consumer {name} answers {status}.", retry_after=1)
        found.append(_taken(nc, msg))
    return found


def _taken(nc: Client, msg: Msg) -> Taken:
    # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>
    return Taken(int(msg.reply.split(".")[-4]), decode(msg.data), msg.data, Delivery(nc, msg))


def _refused(name: str, answer: Json) -> LostError:
    return LostError("unavailable", f"The consumer {name}: {answer['error'].get('description')}.", retry_after=1)
