"""The cookbook does what it says: its Python is run, piece by piece, against one whole Fusion."""

import ast
import inspect
import re
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests.support.docs import page
from tests.support.processes import fusion_up


def pieces() -> dict[str, str]:
    """Return the Python below each heading."""
    found = re.split(r"^## (.*)$", page("cookbook.md"), flags=re.MULTILINE)
    texts = zip(found[1::2], found[2::2], strict=True)
    return {name: "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)) for name, text in texts}


def test_every_recipe_is_there_for_both() -> None:
    sections = re.split(r"^## ", page("cookbook.md"), flags=re.MULTILINE)[1:]

    assert len(sections) >= 12
    assert [each.splitlines()[0] for each in sections if "```python" not in each] == []
    assert [each.splitlines()[0] for each in sections[:-1] if "```sh" not in each] == []


async def test_every_piece_runs_and_does_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}
    async with fusion_up(tmp_path) as fusion:
        monkeypatch.setenv("NATS_URL", fusion.running.nats_url)
        for name, python in pieces().items():
            code = compile(python, f"cookbook.md: {name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await _run(code, said)

    assert said["job"]["status"] == "completed"
    assert said["job"]["metadata"] == {"ticket": 17}
    assert [event["type"] for event in said["followed"]] == ["job.queued", "job.started", "job.completed"]
    assert said["watched"] == ["queued", "started", "completed"]
    assert [event["type"] for _, event in said["from_first"]][:3] == ["job.queued", "job.started", "job.completed"]
    assert [event["type"] for _, event in said["last_hour"]] == ["job.completed"] * 2
    assert {"fusion-chat", "fusion-jobs", "fusion-webhooks", "fusion-subscriptions"} <= set(said["services"])
    assert sorted(said["done"]) == sorted(said["ends"])
    assert said["cancelled"]["status"] in {"cancelled", "processing"}
    assert said["page"]["total"] >= 5
    assert len(said["history"]["events"]) == 3
    assert said["said"]


async def _run(code: CodeType, names: dict[str, Any]) -> None:
    awaited = FunctionType(code, names)()
    if inspect.isawaitable(awaited):
        await awaited
