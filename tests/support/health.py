"""What /readyz and /health say."""

from typing import Any

from aiohttp import ClientSession

from tests.support.nats import until_it


async def health_of(http: ClientSession, path: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the answer, once the catalogue has come within the second that both wait for it."""
    status, answer = 0, dict[str, Any]()

    async def has_catalogue() -> bool:
        nonlocal status, answer
        async with http.get(path) as response:
            status, answer = response.status, await response.json()
        return "The models actor does not answer." not in answer.get("reasons", ()) and answer.get("models") != []

    await until_it(has_catalogue)
    return status, answer
