"""A small chaos, of the kind that `python -m bench.chaos` makes larger."""

from pathlib import Path

from bench.chaos import chaos


async def test_every_accepted_job_has_one_life_whatever_is_killed_and_frozen(tmp_path: Path) -> None:
    report = await chaos(tmp_path, jobs=60, seed=1)

    assert report.violations == []
    assert report.counts["jobs"] == 60
    assert {"worker freezes", "worker kills", "server kills", "edge kills", "historian kills"} <= report.counts.keys()
    assert report.statuses.keys() <= {"completed", "cancelled"}
