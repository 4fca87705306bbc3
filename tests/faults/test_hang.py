"""An engine thread that hangs."""

import os
import sys
from pathlib import Path

import pytest

from actors.process import Program, run_process
from actors.supervisor import Child, supervising
from bus.client import Bus
from bus.errors import LostError
from bus.frames import Status
from bus.process import PARENT_PIPE
from bus.subjects import CHAT
from tests.support import make
from tests.support.hanging_actor import MODEL
from tests.support.nats import connected, server_running, until
from tests.support.processes import REPOSITORY


async def test_a_process_whose_engine_hangs_ends_itself_and_is_started_again(tmp_path: Path) -> None:
    reasons: list[str] = []

    async def on_end(_: str, why: str, is_drained: bool) -> None:
        reasons.append(why)
        assert not is_drained

    async with server_running(tmp_path) as server, connected(server.url, idle_timeout=60.0) as bus:
        program = Program(
            name="model/hanging",
            argv=lambda instance: [sys.executable, "-m", "tests.support.hanging_actor", "--instance", instance],
            environment=os.environ
            | {"FUSION_NATS_URL": server.url, "FUSION_STATE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
            | {PARENT_PIPE: "1"},
            log_path=tmp_path / "model.log",
            on_spawn=lambda *_: None,
            on_end=on_end,
        )
        async with supervising(Child("model/hanging", lambda: run_process(program))):
            first = await _ready(bus)
            said: list[str] = []

            with pytest.raises(LostError) as lost:
                async with bus.stream(CHAT(MODEL), make.chat_request("one two")) as answer:
                    async for item in answer:
                        if not isinstance(item, Status):
                            said.append(item.text)  # noqa: PERF401 - what came before the error counts
            await until(lambda: reasons)
            await _ready(bus, other_than=first)

        assert said == ["one"]
        assert lost.value.code == "crashed"
        assert reasons == ["its process ended itself: the engine had hung for longer than step_timeout"]
        assert "engine.stuck" in program.log_path.read_text()


async def _ready(bus: Bus, other_than: str = "") -> str:
    """Return the instance that serves the model, once there is one."""

    def ready() -> list[str]:
        beats = bus.presence.instances
        return [beat.instance for beat in beats if beat.state == "ready" and beat.instance != other_than]

    await until(ready)
    return ready()[0]
