"""What the engines ask of a message."""

from bus.messages.chat import Message


def text_of(message: Message) -> str:
    """Return the content, its parts joined."""
    content = message.content
    return content if isinstance(content, str) else "".join(part.text for part in content)
