"""What programs have in common that read files which anybody may send: one task after another, within limits.

A program of its own, because there processes hang, crash and fill memory; limited_process.py starts and kills it.
It reads a task a line, and writes a `Reply` a line with its bytes behind it. It ends when its input does, also while
it works.
"""

import math
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

_LOOK_SECONDS = 0.2


class Task(Protocol):
    """Read the file at `path`, unless it has more than `most_bytes`, in so many `seconds` of the processor."""

    @property
    def path(self) -> str: ...  # noqa: D102 - the class tells

    @property
    def most_bytes(self) -> int: ...  # noqa: D102 - the same

    @property
    def seconds(self) -> float: ...  # noqa: D102 - the same


class Reply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was read: `about`, and `size_bytes` that follow; or what is wrong with the file, in a sentence."""

    error: str = ""
    about: Raw = Raw(b"null")
    size_bytes: int = 0


class UnreadableError(Exception):
    """The file cannot be read, or may not be; the message says why in a sentence."""


AnyTask = TypeVar("AnyTask", bound=Task)
Do = Callable[[AnyTask], tuple[object, Sequence[bytes]]]


def serve(kind: type[AnyTask], do: Do[AnyTask], address_bytes: int) -> NoReturn:
    """Do tasks until the input ends. `do` returns what a `Reply` is about and its bytes, or raises `UnreadableError`.

    Anything else that it raises ends the process, but for want of memory or a file that is gone.
    On Linux it has no more than `address_bytes` of addresses; elsewhere it ends when it holds more memory than that.
    """
    if sys.platform == "linux":  # macOS takes no limit that a process exceeds already, and all do there.
        resource.setrlimit(resource.RLIMIT_AS, (address_bytes, address_bytes))
    else:
        threading.Thread(target=watch_memory, args=(address_bytes,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a library prints is no reply.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    while True:
        task = msgspec.json.decode(tasks.get(), type=kind)
        _limit_processor(task.seconds)
        _tell(out, *_done(task, do))


def watch_memory(most_bytes: int) -> None:
    """End the process when it holds more memory. A fifth of a second late, and late for code that keeps the GIL."""
    import psutil  # noqa: PLC0415 - takes a tenth of the start, and only where it is needed

    # getrusage tells the most that there ever was, on Linux also of the parent.
    own = psutil.Process()
    while own.memory_info().rss <= most_bytes:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _listen(tasks: "queue.SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        tasks.put(line)
    os._exit(0)  # Nobody reads the answer any more.


def _limit_processor(seconds: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _done(task: AnyTask, do: Do[AnyTask]) -> tuple[Reply, Sequence[bytes]]:
    try:
        if (size := Path(task.path).stat().st_size) > task.most_bytes:
            return Reply(error=f"It has {size} bytes; the limit is {task.most_bytes}."), ()
        about, content = do(task)
    except UnreadableError as error:
        return Reply(error=str(error)), ()
    except FileNotFoundError:
        return Reply(error="It is not there any more."), ()
    except MemoryError:
        return Reply(error="It takes more memory to read than it may."), ()
    return Reply(about=Raw(msgspec.json.encode(about)), size_bytes=sum(map(len, content))), content


def _tell(out: BinaryIO, reply: Reply, content: Sequence[bytes]) -> None:
    out.write(msgspec.json.encode(reply) + b"\n")
    out.writelines(content)
    out.flush()
