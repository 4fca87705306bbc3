"""Writes one answer to the asker's inbox, in the frames of bus/frames.py."""

import msgspec
from nats.aio.msg import Msg
from nats.errors import MaxPayloadError

from bus.client import Bus
from bus.errors import Failure, RefusedError
from bus.frames import COUNT, END, ERROR, ERROR_CODE, FIRST, LEASE, Frame, Status, size


class HandOn(msgspec.Struct, frozen=True, kw_only=True):
    """What an answerer yields last when somebody else answers: the request goes to `subject` as it came.

    Whoever takes it there publishes on `lease` when it is over, and ends it when `cancel` is published. An asker who
    has had a frame has one more that tells both: whom it waits for now, by `status`, and how to leave.
    """

    subject: str
    lease: str
    cancel: str
    status: Status


class Writer:
    """Writes one answer to the asker's inbox."""

    def __init__(self, bus: Bus, msg: Msg, cancel_subject: str) -> None:
        self._nc = bus.nc
        self._publish = bus.nc.publish
        self._msg = msg
        self._headers = msg.headers or {}
        self._reply = msg.reply
        self._cancel_subject = cancel_subject
        self.is_handed_on = False
        self.count = int(self._headers.get(FIRST, 0))

    async def reply(self, payload: bytes) -> None:
        """Send the single reply. Raises `RefusedError` ("too_large")."""
        if self._reply:
            await self._sized(payload, "")
        self.count += 1

    async def frame(self, payload: bytes) -> None:
        """Send one piece. Raises `RefusedError` ("too_large")."""
        await self._sized(payload, self._cancel_subject)
        self.count += 1

    async def hand_on(self, to: HandOn) -> None:
        """Send the request to who answers from here. Raises `RefusedError` ("too_large")."""
        if self.count:
            self._cancel_subject = to.cancel
            await self.frame(msgspec.json.encode(Frame[None](seq=self.count, status=to.status)))
        headers = {**self._headers, FIRST: str(self.count), LEASE: to.lease}
        total, limit = size(self._msg.data, headers), self._nc.max_payload
        if total > limit:
            raise RefusedError("too_large", f"The request is {total} bytes; the limit is {limit}.")
        await self._publish(to.subject, self._msg.data, reply=self._reply, headers=headers)
        self.is_handed_on = True

    async def release(self) -> None:
        """Tell whoever has handed the request on that it is over."""
        if LEASE in self._headers:
            await self._publish(self._headers[LEASE])

    async def done(self) -> None:
        """End the answer well."""
        await self._end({END: "done", COUNT: str(self.count)}, b"")

    async def fail(self, failure: Failure) -> None:
        """End the answer with an error."""
        # A header is one line of text; the payload has the message whole.
        line = " ".join(failure.message.split()).encode("ascii", "replace").decode()
        headers = {END: "failed", COUNT: str(self.count), ERROR: line, ERROR_CODE: failure.code}
        await self._end(headers, msgspec.json.encode(failure))

    async def _sized(self, payload: bytes, reply: str) -> None:
        try:
            await self._publish(self._reply, payload, reply=reply)
        except MaxPayloadError as error:
            raise RefusedError("too_large", f"The answer is {len(payload)} bytes, too large to send.") from error

    async def _end(self, headers: dict[str, str], payload: bytes) -> None:
        if self._reply:
            await self._publish(self._reply, payload, headers=headers)
