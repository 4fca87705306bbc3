"""The inbox: one subscription for all answers, one bounded queue for each."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

import msgspec
from nats.aio.msg import Msg

from bus.config import BusConfig
from bus.errors import BusError, Failure, LostError, RefusedError, error_of
from bus.frames import COUNT, END, ERROR, ERROR_CODE, STATUS, Frame, Status
from bus.ids import new_id
from bus.subjects import instance_of

ReplyT = TypeVar("ReplyT")
PieceT = TypeVar("PieceT")

# More frames than this waiting means that the reader has stopped; memory stays bounded.
_MAX_WAITING = 4096

_failure_decoder = msgspec.json.Decoder(Failure)
_decoders: dict[type, "msgspec.json.Decoder[Frame[object]]"] = {}


class Answer(AsyncIterator["ReplyT | Status"], Generic[ReplyT]):
    """The pieces of one answer, in order. Ends with StopAsyncIteration or raises a `BusError`."""

    def __init__(self, request_id: str, reply: type[ReplyT], config: BusConfig, *, streamed: bool) -> None:
        self.request_id = request_id
        # Not the request id: a client may send the same one twice at once.
        self.token = new_id()
        self.cancel_subject = ""
        self.instance = ""
        # The id of the model that answers, if the first frame tells it; see `admitted`.
        self.model = ""
        self.unfinished = True
        self._config = config
        self._streamed = streamed
        self._frames = _frame_decoder(reply)
        self._single = msgspec.json.Decoder(reply)
        # When it is full the oldest goes. The gap is then seen, and told, by the reader.
        self._waiting: deque[Msg | BusError] = deque(maxlen=_MAX_WAITING)
        self._arrival: asyncio.Future[None] | None = None
        self._next_seq = 0
        self._had_data = False

    @property
    def has_more(self) -> bool:
        """Whether something has come that was not read yet: the next read does not wait."""
        return bool(self._waiting)

    def put(self, item: Msg | BusError) -> None:
        """Take the next message, or the news that none will come."""
        if isinstance(item, Msg) and item.reply and item.reply != self.cancel_subject:
            # Not first when it is read: a reader that leaves before has to end the work as well, and one that is
            # late has to hear that the instance is gone. Another one may have taken the request on.
            self.cancel_subject = item.reply
            self.instance = instance_of(item.reply)
        self._waiting.append(item)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def admitted(self) -> None:
        """Wait for what comes first, and leave it to be read: from then on `model` is known."""
        item = await self._wait()
        self._waiting.appendleft(item)
        if isinstance(item, Msg) and not item.headers:
            status = self._read(self._frames, item.data).status
            self.model = status.model if status else ""

    async def __anext__(self) -> ReplyT | Status:
        if not self.unfinished:
            raise StopAsyncIteration
        item = await self._wait()
        if isinstance(item, BusError):
            raise self._finish(item)
        headers = item.headers
        if headers:
            self._raise_end(headers, item.data)
        if not self._streamed:
            self.unfinished = False
            return self._read(self._single, item.data)
        return self._unpack(item)

    async def _wait(self) -> Msg | BusError:
        if not self._waiting:
            loop = asyncio.get_running_loop()
            self._arrival = loop.create_future()
            # Done for every piece: asyncio.timeout here and around each write took a tenth of the edge's time.
            name, seconds = self._patience()
            timer = loop.call_later(seconds, self._give_up, name, seconds)
            try:
                await self._arrival
            finally:
                timer.cancel()
        return self._waiting.popleft()

    def _give_up(self, name: str, seconds: float) -> None:
        if not self._waiting:
            self.put(LostError("timeout", f"No {name} within {seconds:g} s.", retry_after=1))

    def _patience(self) -> tuple[str, float]:
        """Return what is waited for, and for how many seconds at most."""
        if not self._next_seq:
            return "answer", self._config.admit_timeout if self._streamed else self._config.first_timeout
        if not self._had_data:
            return "first piece of the answer", self._config.first_timeout
        return "further piece of the answer", self._config.idle_timeout

    def _raise_end(self, headers: dict[str, str], payload: bytes) -> None:
        if headers.get(STATUS) == "503":
            raise self._finish(
                LostError("unavailable", "Nobody serves this at the moment; it may be restarting.", retry_after=1)
            )
        if ERROR_CODE in headers:
            raise self._finish(_failure(headers, payload))
        if END in headers:
            if int(headers[COUNT]) != self._next_seq:
                raise self._broken(int(headers[COUNT]))
            self.unfinished = False
            raise StopAsyncIteration

    def _unpack(self, item: Msg) -> ReplyT | Status:
        frame = self._read(self._frames, item.data)
        if frame.seq != self._next_seq:
            raise self._broken(frame.seq)
        self._next_seq += 1
        if frame.status is not None:
            return frame.status
        self._had_data = True
        return frame.data  # type: ignore[return-value]  # decoded as Frame[ReplyT], see _frame_decoder

    def _read(self, decoder: "msgspec.json.Decoder[PieceT]", payload: bytes) -> PieceT:
        try:
            return decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LostError("stream_broken", f"A piece of the answer cannot be read: {error}") from error

    def _broken(self, seq: int) -> BusError:
        # Still unfinished: the far side may be writing on, and is told to stop when the block is left.
        return LostError("stream_broken", f"Piece {self._next_seq} of the answer was lost; {seq} came instead.")

    def _finish(self, error: BusError) -> BusError:
        # After these the far side may still be at work, so it stays to be told.
        self.unfinished = error.code in {"timeout", "stream_broken"}
        return error


class Inbox:
    """Gives each message that comes to the connection's inbox to the answer that waits for it."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._answers: dict[str, Answer[object]] = {}

    def open(self, request_id: str, reply: type[ReplyT], config: BusConfig, *, streamed: bool) -> Answer[ReplyT]:
        """Return a new answer that messages can come to."""
        answer = Answer(request_id, reply, config, streamed=streamed)
        self._answers[answer.token] = answer  # type: ignore[assignment]  # kept only to be given its messages
        return answer

    def close(self, answer: Answer[ReplyT]) -> None:
        """Let go of `answer`; what still comes for it is answered with a cancel."""
        self._answers.pop(answer.token, None)

    async def receive(self, msg: Msg) -> None:
        """Take one message of the subscription. Never waits: it would hold up every other answer."""
        answer = self._answers.get(msg.subject.rsplit(".", 1)[1])
        if answer is not None:
            answer.put(msg)
        elif msg.reply:
            await msg._client.publish(msg.reply)  # noqa: SLF001 - nats-py gives a message its client only so

    def fail_instance(self, instance: str, why: str) -> None:
        """End every answer that `instance` was giving: it is gone."""
        for answer in self._answers.values():
            if answer.instance == instance:
                answer.put(LostError("crashed", why, retry_after=1))

    def fail_started(self) -> None:
        """End every answer that has begun: while the connection was away some of it may have come to nobody."""
        why = "The connection to the message server was lost during the answer."
        for answer in self._answers.values():
            if answer.cancel_subject:
                answer.put(LostError("stream_broken", why, retry_after=1))


def _failure(headers: dict[str, str], payload: bytes) -> BusError:
    try:
        return error_of(_failure_decoder.decode(payload))
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Some other NATS micro service, or a code that this version does not know.
        return RefusedError("internal_error", f"{headers[ERROR_CODE]}: {headers.get(ERROR, '')}")


def _frame_decoder(reply: type[ReplyT]) -> "msgspec.json.Decoder[Frame[ReplyT]]":
    if reply not in _decoders:
        _decoders[reply] = msgspec.json.Decoder(Frame[reply])  # type: ignore[valid-type]  # built at run time
    return _decoders[reply]  # type: ignore[return-value]  # the key is the type
