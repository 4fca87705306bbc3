"""From the file of a batch to its plan: every line is checked, and becomes the message that its route would send."""

from collections.abc import Mapping
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from bus.blobs import Draft
from bus.decoding import decode
from bus.errors import RefusedError
from bus.messages.batches import PlannedRequest
from bus.messages.chat import ChatRequest
from bus.messages.embeddings import EmbedRequest
from bus.messages.jobs import Operation
from bus.messages.models import ModelCard
from bus.messages.rerank import RerankRequest
from eventlog.batch_events import LineError
from http_edge.batches.endpoints import Endpoint
from http_edge.routing import not_serving

# As OpenAI has it.
MOST_REQUESTS = 50_000

# A job is one message on the bus, of at most 1 MiB with all that stands around its input.
_LARGEST_INPUT = 1_000_000
_LARGEST_LINE = 4 * 2**20

# What is wrong is told in an event, of at most 64 KiB.
_MOST_ERRORS = 50
_LONGEST_MESSAGE = 150
_LONGEST_PARAM = 50


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of the file, as OpenAI has it."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: Raw


class InputError(Exception):
    """The file is not right: `errors` tells all that is wrong, or the first fifty things."""

    def __init__(self, errors: tuple[LineError, ...]) -> None:
        super().__init__(f"{len(errors)} lines are wrong")
        self.errors = errors


class Planner:
    """Turns the lines of one file into the lines of a plan. `cards` are the models, by their ids and aliases."""

    def __init__(self, url: str, endpoint: Endpoint, cards: Mapping[str, ModelCard]) -> None:
        self.total = 0
        self._url = url
        self._endpoint = endpoint
        self._cards = cards
        self._ids: set[str] = set()

    def plan(self, file: BinaryIO, draft: Draft) -> None:
        """Write the plan of `file` to `draft`, and count its lines. Raises `InputError`.

        It takes long, and reads and writes files: it belongs on a thread.
        """
        errors: list[LineError] = []
        for number, content in enumerate(iter(lambda: file.readline(_LARGEST_LINE), b""), 1):
            try:
                self._take(content, draft)
            except _WrongError as error:
                errors.append(error.at(number))
            if len(errors) == _MOST_ERRORS or len(content) == _LARGEST_LINE:
                break
        if not self.total and not errors:
            errors.append(_WrongError("empty_file", "The file has no requests.").at(None))
        if errors:
            raise InputError(tuple(errors))

    def _take(self, content: bytes, draft: Draft) -> None:
        if len(content) == _LARGEST_LINE:
            raise _WrongError("too_large", f"The line has {_LARGEST_LINE} bytes or more; the rest was not read.")
        if not content.strip():
            return
        if self.total == MOST_REQUESTS:
            raise _WrongError("too_many_tasks", f"The file has more than {MOST_REQUESTS} requests.")
        try:
            line = decode(_line, content)
        except RefusedError as error:
            code = error.code if error.failure.param else "invalid_json_line"
            raise _WrongError(code, str(error), error.failure.param) from error
        if line.custom_id in self._ids:
            message = f"Another line has the 'custom_id' '{line.custom_id}'."
            raise _WrongError("duplicate_custom_id", message, "custom_id")
        self._ids.add(line.custom_id)
        if line.url != self._url:
            raise _WrongError("url_mismatch", f"The batch is for '{self._url}', not for '{line.url}'.", "url")
        try:
            draft.write(_encode(self._planned(line)) + b"\n")
        except RefusedError as error:
            raise _WrongError(error.code, str(error), ".".join(filter(None, ("body", error.failure.param)))) from error
        self.total += 1

    def _planned(self, line: Line) -> PlannedRequest:
        """Return the request of `line`. Raises `RefusedError` as its route would, and what its model is not for."""
        asked = self._endpoint.ask(bytes(line.body))
        card = self._cards.get(asked.model)
        if card is None:
            raise RefusedError("model_not_found", f"The model '{asked.model}' does not exist.", param="model")
        if card.kind != self._endpoint.kind:
            raise not_serving(card, self._endpoint.kind)
        content = _encode(asked.input)
        if len(content) > _LARGEST_INPUT:
            raise RefusedError("too_large", f"The request is {len(content)} bytes; {_LARGEST_INPUT} may be in a line.")
        # The ranges of its fields are those of the message.
        decode(_inputs[self._endpoint.operation], content)
        return PlannedRequest(
            custom_id=line.custom_id,
            model=card.id,
            operation=self._endpoint.operation,
            input=Raw(content),
            show=Raw(_encode(asked.show)),
        )


class _WrongError(Exception):
    """What is wrong with a line."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self._code = code
        self._param = param and param[:_LONGEST_PARAM]

    def at(self, line: int | None) -> LineError:
        return LineError(code=self._code, message=str(self)[:_LONGEST_MESSAGE], line=line, param=self._param)


_line = msgspec.json.Decoder(Line)
_encode = msgspec.json.Encoder().encode
_chat = msgspec.json.Decoder(ChatRequest)
_inputs: Mapping[Operation, msgspec.json.Decoder[Any]] = {
    "chat": _chat,
    "complete": _chat,
    "embed": msgspec.json.Decoder(EmbedRequest),
    "rerank": msgspec.json.Decoder(RerankRequest),
}
