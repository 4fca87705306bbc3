"""Splits what a model writes into content, reasoning and calls, the same whatever pieces the text comes in.

A call that cannot be read, or that was cut off, is given back as content, marks and all.
"""

from typing import Literal

from mlx_lm.generate import TextStateMachine

from actors.engines.text_dialect import Calling, Dialect, Thought
from actors.engines.text_parts import Parts, Track
from actors.engines.text_prompt import TextWork
from actors.engines.text_stop import overlap
from bus.messages.chat import ChatChunk

_State = Literal["start", "thought", "thought over", "call", "content"]
_BEGINNINGS: dict[Thought, _State] = {"none": "thought over", "possible": "start", "open": "thought"}


class Splitter:
    """Splits one answer into `parts`. Without `opening` the text continues a prompt, and all of it is content."""

    def __init__(
        self, dialect: Dialect, stop: tuple[str, ...], opening: str | None = None, calling: Calling | None = None
    ) -> None:
        self._dialect = dialect
        self.parts = Parts(dialect, stop, calling)
        self._state = None if opening is None else dialect.state(opening, with_calls=calling is not None)
        self._call_text = ""

    @property
    def track(self) -> Track:
        """How far the answer is split."""
        if self._state is None:
            return self.parts.track(0)
        name, *_, pending = self._state
        # A call may turn out not to be one.
        call = len(self._dialect.call_start + self._call_text) if name == "tool" else 0
        return self.parts.track(call + len(pending))

    def feed(self, text: str) -> ChatChunk:
        """Return what `text` decides. Once the parts are stopped, nothing more is."""
        if self._state is None:
            return ChatChunk(text=self.parts.pass_on(text))
        self._state, segments = TextStateMachine.split(self._state, text)
        (state, piece), *others = segments
        self._take(state, piece)
        # Each further segment stands for a mark that was passed, also where two calls follow each other.
        for after, piece in others:
            self._leave(state, after)
            self._take(after, piece)
            state = after
        return self.parts.new()

    def flush(self, *, was_cut: bool) -> ChatChunk:
        """Return what is left, because the text has ended; `was_cut` if the model had more to say."""
        if self._state is None:
            return ChatChunk(text=self.parts.rest())
        self._state, rest, state = TextStateMachine.flush(self._state)
        self._take(state, rest)
        if state == "tool":
            # Some parsers read half a call as a whole one. Formats without an end mark have parsers that do not.
            self._end_call("", is_readable=not (was_cut and self._dialect.call_end))
        self.parts.end()
        return self.parts.new()

    def _take(self, state: str, text: str) -> None:
        if state == "normal":
            self.parts.say(text)
        elif state == "reasoning":
            self.parts.think(text)
        elif state == "tool":
            self._call_text += text

    def _leave(self, state: str, after: str) -> None:
        if state == "tool":
            self._end_call(self._dialect.call_end, is_readable=True)
        elif state == "reasoning":
            self.parts.pause_reasoning()
        elif after != "normal":
            self.parts.decide()
        if "reasoning" in (state, after):
            self.parts.pause_content()

    def _end_call(self, mark: str, *, is_readable: bool) -> None:
        text, self._call_text = self._call_text, ""
        if not (is_readable and self.parts.call(text)):
            self.parts.say(f"{self._dialect.call_start}{text}{mark}")


class FormSplitter:
    """Splits one answer that is kept to a form into `parts`: perhaps a thought, then calls or content, each to its end.

    Marks inside the content, and inside the strings of calls, are part of these.
    """

    def __init__(
        self, dialect: Dialect, stop: tuple[str, ...], thought: Thought, calling: Calling | None = None
    ) -> None:
        self._dialect = dialect
        self._can_call = calling is not None
        self.parts = Parts(dialect, stop, calling)
        self._state = _BEGINNINGS[thought]
        # What is not decided yet, and how much of it was searched for the end of a call.
        self._rest = ""
        self._searched = 0

    @property
    def track(self) -> Track:
        """How far the answer is split."""
        call = len(self._dialect.call_start) if self._state == "call" else 0
        return self.parts.track(call + len(self._rest))

    def feed(self, text: str) -> ChatChunk:
        """Return what `text` decides. Once the parts are stopped, nothing more is."""
        self._rest += text
        while self._step():
            pass
        return self.parts.new()

    def flush(self, *, was_cut: bool) -> ChatChunk:
        """Return what is left, because the text has ended; `was_cut` if the model had more to say."""
        rest, self._rest = self._rest, ""
        state, self._state = self._state, "content"
        if state == "thought":
            self.parts.think(rest)
        elif state != "call":
            self.parts.say(rest)
        elif (was_cut and self._dialect.call_end) or not self.parts.call(rest):
            self.parts.say(self._dialect.call_start + rest)
        self.parts.end()
        return self.parts.new()

    def _step(self) -> bool:
        """Take from the rest what the state lets it, and return whether another state goes on with it."""
        match self._state:
            case "start":
                return self._enter(self._dialect.think_start, "thought", "thought over")
            case "thought":
                return self._take_thought()
            case "thought over" if self._can_call:
                return self._enter(self._dialect.call_start, "call", "content")
            case "call":
                return self._take_call()
            case _:
                self.parts.say(self._rest)
                self._rest = ""
                return False

    def _enter(self, mark: str, inside: _State, otherwise: _State) -> bool:
        begun = self._rest.lstrip()
        if begun.startswith(mark):
            self._state, self._rest, self._searched = inside, begun[len(mark) :], 0
            return True
        if mark.startswith(begun):
            return False
        self._state = otherwise
        return True

    def _take_thought(self) -> bool:
        thought, mark, rest = self._rest.partition(self._dialect.think_end)
        if not mark:
            border = len(thought) - overlap(thought, self._dialect.think_end)
            thought, rest = thought[:border], thought[border:]
        self.parts.think(thought)
        self._rest = rest
        if mark:
            self.parts.pause_reasoning()
            self.parts.pause_content()
            self._state = "thought over"
        return bool(mark)

    def _take_call(self) -> bool:
        mark = self._dialect.call_end
        at = self._rest.find(mark, self._searched) if mark else -1
        if at < 0:
            self._searched = max(len(self._rest) - len(mark) + 1, 0)
            return False
        if self.parts.call(self._rest[:at]):
            self._state, self._rest = "thought over", self._rest[at + len(mark) :]
        else:
            # The mark is inside a string of the call.
            self._searched = at + 1
        return True


def splitter_of(dialect: Dialect, work: TextWork) -> Splitter | FormSplitter:
    """Return what splits the answer to `work`."""
    if work.thought is not None:
        return FormSplitter(dialect, work.stop, work.thought, work.calling)
    return Splitter(dialect, work.stop, work.opening, work.calling)
