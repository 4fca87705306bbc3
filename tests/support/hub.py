"""A hub of one repository on this machine, which speaks as much of Hugging Face's API as a download needs."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

TINY = "someone/tiny"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `files`. That called `slow` breaks off half-way as often as `breaks` says, then waits there for `go_on`.

    `asked` has the path and the range of each download.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, str | None]] = []
        self.slow = ""
        self.breaks = 0
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.url = ""

    async def about(self, request: web.Request) -> web.Response:
        """Answer what the newest commit is."""
        if request.match_info["repository"] != TINY:
            return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})
        return web.json_response({"id": TINY, "sha": _COMMIT, "siblings": []})

    async def tree(self, _: web.Request) -> web.Response:
        """Answer which files it has."""
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
            for path, content in self.files.items()
        ]
        return web.json_response(rows)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """Answer with a file, or with the rest of it."""
        path = request.match_info["path"]
        content = self.files[path]
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(content))})
        begin = request.http_range.start or 0
        self.asked.append((path, request.headers.get("Range")))
        response = web.StreamResponse(status=206 if begin else 200, headers=headers)
        response.content_length = len(content) - begin
        await response.prepare(request)
        if path == self.slow:
            middle = (begin + len(content)) // 2
            await response.write(content[begin:middle])
            if self.breaks:
                self.breaks -= 1
                assert request.transport is not None
                request.transport.close()
                return response
            begin = middle
            await self.go_on.wait()
        await response.write(content[begin:])
        return response


@asynccontextmanager
async def hub_running(files: dict[str, bytes]) -> AsyncGenerator[Hub]:
    """Serve `files` until the block ends."""
    hub = Hub(files)
    app = web.Application()
    app.router.add_get("/api/models/{repository:.+}/revision/main", hub.about)
    app.router.add_get(f"/api/models/{TINY}/tree/{_COMMIT}", hub.tree)
    app.router.add_get(f"/{TINY}/resolve/{_COMMIT}/{{path:.+}}", hub.file)
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield hub
    finally:
        await runner.cleanup()


def _etag(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
