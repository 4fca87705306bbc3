"""What parsing.py tells its processes to do; what it gets from them is a `Parsed`, as MessagePack."""

from msgspec import Struct


class Task(Struct, frozen=True, kw_only=True):
    """Read the document at `path`, which is called `filename` and said to be of `content_type`.

    Not if the file has more than `most_bytes`, more pages than `most_pages`, or a text of more than `most_text_bytes`
    in UTF-8. Archives are unpacked up to `most_unpacked_bytes`. `seconds` is how long the processor may work at it.
    """

    path: str
    filename: str
    content_type: str | None
    most_bytes: int
    most_pages: int
    most_text_bytes: int
    most_unpacked_bytes: int
    seconds: float
