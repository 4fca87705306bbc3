"""The subscriptions actor, running."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from actors import subscriptions
from bus.client import Bus
from bus.errors import LostError
from bus.messages.subscriptions import ListSubscriptions
from bus.subjects import LIST_SUBSCRIPTIONS
from tests.support.jobs import living
from tests.support.nats import until_it


@asynccontextmanager
async def subscribing(bus: Bus) -> AsyncGenerator[None]:
    """Run the subscriptions actor until the block ends."""

    async def answers() -> bool:
        try:
            await bus.ask(LIST_SUBSCRIPTIONS(), ListSubscriptions())
        except LostError:
            return False
        return True

    async with living(subscriptions.child(bus, "subscriptions-1").run()):
        await until_it(answers)
        yield
