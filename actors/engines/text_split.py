"""Splits what a model writes into content, reasoning and calls, the same whatever pieces the text comes in.

Stop strings end the content; in reasoning and in calls they are not looked for.
White space between these belongs to the form: it is dropped unless content, or reasoning, stands on both sides.
A call that cannot be read, or that was cut off, is given back as content, marks and all.
"""

from mlx_lm.generate import TextStateMachine

from actors.engines.text_dialect import Calling, Dialect
from actors.engines.text_stop import StopMatcher
from bus.messages.chat import ChatChunk, ToolCallDelta


class Splitter:
    """Splits one answer. Without `opening` the text continues a prompt, and all of it is content."""

    def __init__(
        self, dialect: Dialect, stop: tuple[str, ...], opening: str | None = None, calling: Calling | None = None
    ) -> None:
        self._dialect = dialect
        self._calling = calling
        self._matcher = StopMatcher(stop)
        self._state = None if opening is None else dialect.state(opening, with_calls=calling is not None)
        self._content, self._reasoning = _Channel(), _Channel()
        self._reasoning.pause()
        self._call_text = ""
        self._calls = 0
        self._new_calls: list[ToolCallDelta] = []
        self.is_stopped = False

    @property
    def has_called(self) -> bool:
        """Whether a call was given."""
        return self._calls > 0

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that was met."""
        return self._matcher.matched

    def feed(self, text: str) -> ChatChunk:
        """Return what `text` decides. After `is_stopped` nothing more is."""
        if self._state is None:
            shown = self._matcher.feed(text)
            self.is_stopped = self._matcher.is_stopped
            return ChatChunk(text=shown)
        self._state, segments = TextStateMachine.split(self._state, text)
        (state, piece), *others = segments
        self._take(state, piece)
        # Each further segment stands for a mark that was passed, also where two calls follow each other.
        for after, piece in others:
            self._leave(state, after)
            self._take(after, piece)
            state = after
        return self._new()

    def flush(self, *, was_cut: bool) -> ChatChunk:
        """Return what is left, because the text has ended; `was_cut` if the model had more to say."""
        if self._state is None:
            return ChatChunk(text=self._matcher.flush())
        self._state, rest, state = TextStateMachine.flush(self._state)
        self._take(state, rest)
        if state == "tool":
            # Some parsers read half a call as a whole one. Formats without an end mark have parsers that do not.
            self._end_call("", is_readable=not (was_cut and self._dialect.call_end))
        self._content.add(self._matcher.flush())
        self._content.end()
        self._reasoning.end()
        return self._new()

    def _take(self, state: str, text: str) -> None:
        if self.is_stopped:
            return
        if state == "normal":
            self._say(text)
        elif state == "reasoning":
            self._reasoning.add(self._reasoning.begun(text))
        elif state == "tool":
            self._call_text += text

    def _leave(self, state: str, after: str) -> None:
        if self.is_stopped:
            return
        if state == "tool":
            self._end_call(self._dialect.call_end, is_readable=True)
        elif state == "reasoning":
            self._reasoning.pause()
        elif after != "normal":
            self._content.add(self._matcher.flush())
        if "reasoning" in (state, after):
            self._content.pause()

    def _say(self, text: str) -> None:
        self._content.add(self._matcher.feed(self._content.begun(text)))
        if self._matcher.is_stopped:
            self._content.end()
            self.is_stopped = True

    def _end_call(self, mark: str, *, is_readable: bool) -> None:
        text, self._call_text = self._call_text, ""
        assert self._calling is not None  # noqa: S101 - else no mark leads here
        calls = self._dialect.calls(text, self._calling.tools) if is_readable else []
        if not calls:
            self._say(f"{self._dialect.call_start}{text}{mark}")
            return
        self._content.pause()
        for call in calls[:1] if self._calling.is_single else calls:
            delta = ToolCallDelta(index=self._calls, id=call.id, name=call.name, arguments=call.arguments)
            self._new_calls.append(delta)
            self._calls += 1
        self.is_stopped = self._calling.is_single

    def _new(self) -> ChatChunk:
        calls, self._new_calls = tuple(self._new_calls), []
        return ChatChunk(text=self._content.new(), reasoning=self._reasoning.new(), tool_calls=calls)


class _Channel:
    """One kind of text. White space at its end is held back until it is known to be inside."""

    def __init__(self) -> None:
        self._new = ""
        self._held = ""
        self._has_begun = False
        self._has_paused = False
        self._is_paused = False

    def begun(self, text: str) -> str:
        """Return `text` without the white space that separates the beginning from what came before."""
        if not self._has_begun:
            text = text.lstrip() if self._has_paused else text
            self._has_begun = bool(text.strip())
        return text

    def add(self, text: str) -> None:
        text = self._held + text
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._new += kept
        self._is_paused = self._is_paused and not kept

    def pause(self) -> None:
        """Something else comes here."""
        self._has_paused = self._is_paused = True
        if not self._has_begun:
            self._held = ""

    def end(self) -> None:
        self._new += "" if self._is_paused else self._held
        self._held = ""

    def new(self) -> str:
        new, self._new = self._new, ""
        return new
