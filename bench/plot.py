"""From figures to plots in Mermaid's `xychart-beta`, which GitHub and most viewers of Markdown draw."""

from collections.abc import Iterable, Mapping

from bench.figures import Figures

# What is plotted: a figure, and what its axis says.
_PLOTTED = (("tokens_s", "tokens/s"), ("first_p50", "first p50 ms"), ("first_p99", "first p99 ms"))


def plots(found: Mapping[tuple[int, str], Figures], ours: str, other: str) -> str:
    """Return a plot of each figure over the number of requests at once: ours as bars, the other's as a line."""
    return "\n\n".join(_plot(found, field, axis, ours, other) for field, axis in _PLOTTED)


def _plot(found: Mapping[tuple[int, str], Figures], field: str, axis: str, ours: str, other: str) -> str:
    levels = sorted({level for level, _ in found})
    bars, line = ([getattr(found[level, name], field) for level in levels] for name in (ours, other))
    return "\n".join(
        (
            "```mermaid",
            "xychart-beta",
            f'    title "{axis}: {ours} (bars) and {other} (line)"',
            f'    x-axis "requests at once" {_row(map(str, levels))}',
            f'    y-axis "{axis}" 0 --> {max(*bars, *line) * 1.1:.0f}',
            f"    bar {_row(f'{value:.0f}' for value in bars)}",
            f"    line {_row(f'{value:.0f}' for value in line)}",
            "```",
        )
    )


def _row(values: Iterable[str]) -> str:
    return "[" + ", ".join(values) + "]"
