"""Gathers content, reasoning and calls while an answer is split into them.

Stop strings end the content; in reasoning and in calls they are not looked for.
White space between these belongs to the form: it is dropped unless content, or reasoning, stands on both sides.
"""

from typing import NamedTuple

from actors.engines.text_dialect import Calling, Dialect
from actors.engines.text_stop import StopMatcher
from bus.messages.chat import ChatChunk, ToolCallDelta


class Track(NamedTuple):
    """How far an answer is split: so many characters are content, and so many at its end are not decided.

    Of those that are content, the first `dropped` are not told.
    """

    content: int
    dropped: int
    undecided: int


class Parts:
    """What one answer consists of so far. After `is_stopped` it takes nothing more."""

    def __init__(self, dialect: Dialect, stop: tuple[str, ...], calling: Calling | None) -> None:
        self._dialect = dialect
        self._calling = calling
        self._matcher = StopMatcher(stop)
        self._content, self._reasoning = _Channel(), _Channel()
        self._reasoning.pause()
        self._calls = 0
        self._new_calls: list[ToolCallDelta] = []
        self._said = 0

    @property
    def has_called(self) -> bool:
        """Whether a call was given."""
        return self._calls > 0

    @property
    def is_stopped(self) -> bool:
        """Whether a stop string was met, or the only call given."""
        is_single = self._calling is not None and self._calling.is_single
        return self._matcher.is_stopped or (is_single and self.has_called)

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that was met."""
        return self._matcher.matched

    def track(self, undecided: int) -> Track:
        """Return how far it is, if the text goes on for so many characters that were not given here yet."""
        return Track(self._said, self._content.dropped, undecided)

    def pass_on(self, text: str) -> str:
        """Return what is decided of a text that is content as it stands."""
        self._said += len(text)
        return self._matcher.feed(text)

    def rest(self) -> str:
        """Return what of such a text was held back, because it has ended."""
        return self._matcher.flush()

    def say(self, text: str) -> None:
        """Take content."""
        if self.is_stopped:
            return
        self._said += len(text)
        self._content.add(self._matcher.feed(self._content.begun(text)))
        if self._matcher.is_stopped:
            self._content.end()

    def think(self, text: str) -> None:
        """Take reasoning."""
        if not self.is_stopped:
            self._reasoning.add(self._reasoning.begun(text))

    def call(self, text: str) -> bool:
        """Take the calls that are written in `text`, and say whether there are any."""
        if self.is_stopped or self._calling is None:
            return False
        calls = self._dialect.calls(text, self._calling.tools)
        if not calls:
            return False
        self._content.pause()
        for call in calls[:1] if self._calling.is_single else calls:
            delta = ToolCallDelta(index=self._calls, id=call.id, name=call.name, arguments=call.arguments)
            self._new_calls.append(delta)
            self._calls += 1
        return True

    def pause_content(self) -> None:
        """Reasoning comes here."""
        if not self.is_stopped:
            self._content.pause()

    def pause_reasoning(self) -> None:
        """The reasoning is interrupted here, or over."""
        if not self.is_stopped:
            self._reasoning.pause()

    def decide(self) -> None:
        """No stop string goes on beyond this place."""
        if not self.is_stopped:
            self._content.add(self._matcher.flush())

    def end(self) -> None:
        """Nothing more comes."""
        self._content.add(self._matcher.flush())
        self._content.end()
        self._reasoning.end()

    def new(self) -> ChatChunk:
        """Return what is decided and was not returned before."""
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
        self.dropped = 0

    def begun(self, text: str) -> str:
        """Return `text` without the white space that separates the beginning from what came before."""
        if not self._has_begun:
            kept = text.lstrip() if self._has_paused else text
            self.dropped += len(text) - len(kept)
            text = kept
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
            self.dropped += len(self._held)
            self._held = ""

    def end(self) -> None:
        self._new += "" if self._is_paused else self._held
        self._held = ""

    def new(self) -> str:
        new, self._new = self._new, ""
        return new
