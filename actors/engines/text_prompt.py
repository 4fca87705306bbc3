"""Turns a request into tokens and settings that the model can honour, or refuses it. Computes nothing."""

from typing import TypeVar

import msgspec
from llguidance import LLMatcher
from mlx_lm.tokenizer_utils import TokenizerWrapper
from msgspec import Struct

from actors.engines.messages import text_of
from actors.engines.text_dialect import Calling, Dialect, Thought
from actors.engines.text_form import Forms
from actors.engines.text_grammar import Grammars
from actors.engines.text_model import TextLimits, TextModel
from actors.engines.text_sampling import Penalties, Sampling
from actors.engines.text_template import Conversations
from bus.errors import RefusedError
from bus.messages.chat import ChatRequest
from bus.messages.tokens import Detokenized, DetokenizeRequest, TokenizeRequest, Tokens

T = TypeVar("T")

# In characters: this many were tokenised in 160 ms, and everyone else waits meanwhile.
_LONGEST_TEXT = 256 * 1024
# Tokens for which memory is reserved when nobody says how long the answer may be.
_USUAL_ANSWER = 2048


class TextWork(Struct, frozen=True, kw_only=True):
    """A request that was found possible. Everything in it is decided.

    The batch makes room for `reserved` tokens, prompt and all. Who has not said `max_tokens` gets room for a
    usual answer, since hardly any fills the context.
    `opening` is the state in which the answer to a conversation begins, or `thought` says how it does where it is kept
    to a form; without both a prompt is continued.
    """

    prompt: list[int]
    max_tokens: int
    reserved: int = 0
    sampling: Sampling
    penalties: Penalties
    seed: int | None
    stop: tuple[str, ...]
    grammar: LLMatcher | None = None
    top_logprobs: int | None = None
    opening: str | None = None
    thought: Thought | None = None
    calling: Calling | None = None

    @property
    def is_exact(self) -> bool:
        """Whether a space at its beginning is told: a text goes on with it, or a grammar has it."""
        return self.thought == "none" or (self.thought is None and self.opening is None)

    @property
    def is_plain(self) -> bool:
        """Whether each token depends on nothing but those before it."""
        is_seeded = self.seed is not None and not self.sampling.is_greedy
        is_free = self.grammar is None and self.penalties == Penalties() and self.top_logprobs is None
        return is_free and not is_seeded


class PromptReader:
    """Knows the tokenizer and the bounds of one model."""

    def __init__(self, model: TextModel, limits: TextLimits, dialect: Dialect) -> None:
        self._tokenizer: TokenizerWrapper = model.tokenizer
        self._dialect = dialect
        self._conversations = Conversations(model.tokenizer, dialect)
        self._context_length = model.facts.context_length
        self._vocab_size = model.vocab_size
        self._defaults = model.defaults
        self._default_max_tokens = limits.default_max_tokens
        self._forms = Forms(dialect, Grammars(model.token_bytes))
        self._tells_tokens = model.token_bytes is not None
        self._kv_cost = model.kv_cost
        self._kv_bytes = model.kv_bytes
        self._most_tokens = model.kv_cost.most_tokens(model.kv_bytes, model.facts.context_length)

    def read(self, request: ChatRequest) -> TextWork:
        """Return the work that `request` asks for. Raises `RefusedError` naming the field at fault."""
        if bool(request.messages) == (request.prompt is not None):
            raise RefusedError("invalid_request", "Give exactly one of messages and prompt.", param="messages")
        if request.top_logprobs is not None and not self._tells_tokens:
            message = "This model's tokenizer does not tell its tokens."
            raise RefusedError("unsupported_parameter", message, param="top_logprobs")
        # The cheap checks come first: tokenising a long text takes a while.
        sampling = self._sampling(request)
        penalties = self._penalties(request)
        calling = self._conversations.calling(request)
        prompt = self._prompt(request)
        max_tokens = self._max_tokens(request, len(prompt))
        form = self._forms.form(request, prompt)
        thought = None if form is None else form.thought
        opening = self._dialect.opening(prompt) if request.messages and thought is None else None
        return TextWork(
            prompt=prompt,
            max_tokens=max_tokens,
            reserved=len(prompt) + (max_tokens if request.max_tokens else min(max_tokens, _USUAL_ANSWER)),
            sampling=sampling,
            penalties=penalties,
            seed=request.seed,
            stop=request.stop,
            grammar=None if form is None else form.matcher,
            top_logprobs=request.top_logprobs,
            opening=opening,
            thought=thought,
            calling=calling,
        )

    def tokenize(self, request: TokenizeRequest) -> Tokens:
        """Return what `read` would make of the same text or messages, also when it is too long for the model.

        Raises `RefusedError` naming the field at fault.
        """
        if bool(request.messages) == (request.prompt is not None):
            raise RefusedError("invalid_request", "Give exactly one of messages and prompt.", param="messages")
        length = len(request.prompt or "") + sum(len(text_of(message)) for message in request.messages)
        length += len(msgspec.json.encode(request.tools)) if request.tools else 0
        if length > _LONGEST_TEXT:
            message = f"{length} characters; at most {_LONGEST_TEXT} are tokenised at once."
            raise RefusedError("too_large", message, param="messages" if request.prompt is None else "prompt")
        tokens = (
            self._whole_conversation(request) if request.prompt is None else self._whole_text(request, request.prompt)
        )
        return Tokens(tokens=tuple(tokens), context_length=self._context_length)

    def detokenize(self, request: DetokenizeRequest) -> Detokenized:
        """Return the text of tokens. Raises `RefusedError` for one that the model does not have."""
        self._check_ids(list(request.tokens), "tokens")
        # Cleaning up would take the space before a full stop away, which then tokenises differently.
        return Detokenized(prompt=self._tokenizer.decode(list(request.tokens), clean_up_tokenization_spaces=False))

    def _whole_conversation(self, request: TokenizeRequest) -> list[int]:
        if request.add_special_tokens:
            raise RefusedError(
                "invalid_request",
                "The special tokens of a conversation are in its chat template.",
                param="add_special_tokens",
            )
        conversation = ChatRequest(
            messages=request.messages,
            tools=request.tools,
            reasoning_effort=request.reasoning_effort,
            enable_thinking=request.enable_thinking,
        )
        return self._conversations.tokens(conversation)

    def _whole_text(self, request: TokenizeRequest, text: str) -> list[int]:
        self._refuse_conversational(request)
        if request.add_special_tokens is False:
            return list(self._tokenizer.encode(text, add_special_tokens=False))
        return self._text(text)

    def _prompt(self, request: ChatRequest) -> list[int]:
        if request.prompt is None:
            return self._conversations.tokens(request)
        self._refuse_conversational(request)
        if isinstance(request.prompt, str):
            prompt = self._text(request.prompt)
        else:
            prompt = list(request.prompt)
            self._check_ids(prompt, "prompt")
        if not prompt:
            raise RefusedError("invalid_request", "The prompt is empty.", param="prompt")
        return prompt

    def _refuse_conversational(self, request: ChatRequest | TokenizeRequest) -> None:
        for param in ("tools", "reasoning_effort", "enable_thinking"):
            if getattr(request, param) not in ((), None):
                raise RefusedError("invalid_request", f"{param} goes with messages, not with a prompt.", param=param)

    def _text(self, text: str) -> list[int]:
        bos = self._tokenizer.bos_token
        has_bos = bos is not None and text.startswith(bos)
        return list(self._tokenizer.encode(text, add_special_tokens=not has_bos))

    def _max_tokens(self, request: ChatRequest, prompt_length: int) -> int:
        param = "prompt" if request.prompt is not None else "messages"
        limit = f"This model's maximum context length is {self._context_length} tokens. However, "
        rest = self._context_length - prompt_length
        if rest < 1:
            message = f"{limit}your {param} resulted in {prompt_length} tokens."
            raise RefusedError("context_length_exceeded", message, param=param)
        self._check_memory(prompt_length + (request.max_tokens or 1), param)
        if request.max_tokens is None:
            return min(rest, self._default_max_tokens or rest, self._most_tokens - prompt_length)
        if request.max_tokens > rest:
            message = (
                f"{limit}you requested {prompt_length + request.max_tokens} tokens "
                f"({prompt_length} in the {param}, {request.max_tokens} in the completion)."
            )
            raise RefusedError("context_length_exceeded", message, param=param)
        return request.max_tokens

    def _check_memory(self, tokens: int, param: str) -> None:
        # Beyond the context there is a better reason to refuse.
        if self._most_tokens < tokens <= self._context_length:
            message = (
                f"This request takes {tokens} tokens, prompt and completion, which need "
                f"{self._kv_cost.of(1, tokens)} bytes of memory; this model has {self._kv_bytes} (`kv_cache_bytes`), "
                f"enough for {self._most_tokens} tokens."
            )
            raise RefusedError("insufficient_memory", message, param=param)

    def _sampling(self, request: ChatRequest) -> Sampling:
        if request.top_k is not None and request.top_k >= self._vocab_size:
            raise RefusedError(
                "invalid_request",
                f"top_k is {request.top_k}, but may be at most {self._vocab_size - 1}; 0 is off.",
                param="top_k",
            )
        own = self._defaults
        top_k = _first(request.top_k, own.top_k, 0)
        return Sampling(
            temperature=_first(request.temperature, own.temperature, 1.0),
            top_p=_first(request.top_p, own.top_p, 1.0),
            top_k=top_k if top_k < self._vocab_size else 0,
            min_p=_first(request.min_p, own.min_p, 0.0),
        )

    def _penalties(self, request: ChatRequest) -> Penalties:
        bias = request.logit_bias or {}
        # mlx writes past the end of the logits for an id that is too large: the process dies.
        self._check_ids(list(bias), "logit_bias")
        return Penalties(
            presence=request.presence_penalty or 0.0,
            frequency=request.frequency_penalty or 0.0,
            repetition=_first(request.repetition_penalty, self._defaults.repetition_penalty, 1.0),
            bias=tuple(bias.items()),
        )

    def _check_ids(self, ids: list[int], param: str) -> None:
        for token in ids:
            if not 0 <= token < self._vocab_size:
                raise RefusedError(
                    "invalid_request",
                    f"{token} is not a token id of this model, which has {self._vocab_size}.",
                    param=param,
                )


def _first(said: T | None, default: T | None, otherwise: T) -> T:
    if said is not None:
        return said
    return otherwise if default is None else default
