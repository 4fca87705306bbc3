"""Decodes images and videos for media.py: `python -m actors.media_child`.

A program of its own, because decoders of files that anybody may send are where processes hang, crash and fill memory.
Reads a `Task` a line, and writes a `Reply` and the pixels. Ends when its input does, also while it decodes.
"""

import math
import os
import queue
import resource
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from actors.media_task import Picture, Reply, Task, UnreadableError

# Of addresses, not of memory in use: Python and OpenCV take a third of a GiB of them before anything is decoded.
_ADDRESS_BYTES = 2 << 30

_LACKING = "This server cannot read {}s: {}. What it takes comes with pip install 'mlx-fusion[embeddings]'."


def main() -> None:
    """Do tasks until the input ends."""
    if sys.platform == "linux":  # macOS takes no limit that a process exceeds already, and all do there.
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What a library prints is no reply.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()
    while True:
        task = msgspec.json.decode(tasks.get(), type=Task)
        _limit_processor(task.seconds)
        _tell(out, *_done(task))


def _listen(tasks: "queue.SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        tasks.put(line)
    os._exit(0)  # Nobody reads the answer any more.


def _limit_processor(seconds: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _done(task: Task) -> tuple[Reply, list[Picture]]:
    try:
        pictures = _decoded(task)
    except UnreadableError as error:
        return Reply(error=str(error)), []
    except FileNotFoundError:
        return Reply(error="It is not there any more."), []
    except MemoryError:
        return Reply(error="It takes more memory to decode than it may."), []
    except ImportError as error:
        return Reply(error=_LACKING.format(task.medium, error)), []
    return Reply(sizes=tuple((picture.height, picture.width) for picture in pictures)), pictures


def _decoded(task: Task) -> list[Picture]:
    if (size := Path(task.path).stat().st_size) > task.most_bytes:
        raise UnreadableError(f"It has {size} bytes; the limit is {task.most_bytes}.")
    # Each is imported at the first task that needs it: both together take half a second, and neither may be there.
    if task.medium == "image":
        from actors.media_image import decode_image  # noqa: PLC0415 - as said above

        return [decode_image(task.path, task.most_pixels)]
    from actors.media_video import decode_video  # noqa: PLC0415 - as said above

    return decode_video(task.path, task.frames, task.most_pixels)


def _tell(out: BinaryIO, reply: Reply, pictures: list[Picture]) -> None:
    out.write(msgspec.json.encode(reply) + b"\n")
    out.writelines(picture.pixels for picture in pictures)
    out.flush()


if __name__ == "__main__":
    main()
