"""Decodes images and videos for media.py: `python -m actors.media_child`, within the limits of limited_child.py."""

from actors.limited_child import UnreadableError, serve
from actors.media_task import Picture, Sizes, Task

# Python and OpenCV take a third of a GiB of them before anything is decoded.
_ADDRESS_BYTES = 2 << 30

_LACKING = "This server cannot read {}s: {}. What it takes comes with pip install 'mlx-fusion[embeddings]'."


def _do(task: Task) -> tuple[Sizes, list[bytes]]:
    try:
        pictures = _decoded(task)
    except ImportError as error:
        raise UnreadableError(_LACKING.format(task.medium, error)) from error
    return tuple((picture.height, picture.width) for picture in pictures), [picture.pixels for picture in pictures]


def _decoded(task: Task) -> list[Picture]:
    # Each is imported at the first task that needs it: both together take half a second, and neither may be there.
    if task.medium == "image":
        from actors.media_image import decode_image  # noqa: PLC0415 - as said above

        return [decode_image(task.path, task.most_pixels)]
    from actors.media_video import decode_video  # noqa: PLC0415 - as said above

    return decode_video(task.path, task.frames, task.most_pixels)


if __name__ == "__main__":
    serve(Task, _do, _ADDRESS_BYTES)
