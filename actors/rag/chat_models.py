"""The chat models as RAG uses them: asked over the bus like by anyone."""

from collections.abc import Sequence

from actors.model_finder import ModelFinder
from bus.client import Bus
from bus.errors import LostError, RefusedError
from bus.messages.chat import Message
from bus.messages.tokens import TokenizeRequest, Tokens
from bus.subjects import TOKENIZE


class ChatModels:
    """All chat models. `default` is for who names none; unless it is given, the first warm one."""

    def __init__(self, bus: Bus, default: str | None) -> None:
        self._bus = bus
        self._default = default
        self._finder = ModelFinder(bus)

    async def find(self, model: str) -> str:
        """Return the id of the model. Raises `RefusedError` ("model") unless it is a chat model."""
        try:
            card = await self._finder.find(model)
        except LostError:
            return model  # Nobody knows; it is seen when it is asked.
        if card.kind != "chat":
            message = f"The model '{card.id}' is for {card.kind}, not for chat."
            raise RefusedError("invalid_request", message, param="model")
        return card.id

    async def default(self) -> str:
        """Return the model for who names none. Raises `RefusedError` if there is none, and `LostError`."""
        if self._default is not None:
            return await self.find(self._default)
        card = await self._finder.first("chat")
        if card is None:
            raise RefusedError("model_not_found", "There is no chat model.", param="model")
        return card.id

    async def tokens(self, model: str, messages: Sequence[Message]) -> Tokens | None:
        """Return what the model would read; None if that is too much to be told. Raises `BusError`."""
        request = TokenizeRequest(messages=tuple(messages))
        try:
            # A heavy model is loaded first.
            return await self._bus.ask(TOKENIZE(model), request, patience=self._bus.config.first_timeout)
        except RefusedError as error:
            if error.code == "too_large":
                return None
            raise
