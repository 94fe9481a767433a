"""The ledger's part of a report: what each role did with the mean step, and what its GPUs reached."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

ROLES = ("policy", "reference", "rollout")

Rows = list[dict[str, Any]]


def has_ledger(rows: Rows) -> bool:
    """Whether the run kept one."""
    return any(name.startswith("perf/") for row in rows for name in row)


def draw_roles(figure: Figure, rows: Rows) -> None:
    """A bar for each role: the seconds of its methods in the mean step, and its idle rest."""
    axes = figure.subplots()
    work = _mean_seconds(rows)
    methods = [*sorted({method for spent in work.values() for method in spent} - {"idle"}), "idle"]
    ends = dict.fromkeys(work, 0.0)
    for i, method in enumerate(methods):
        seconds = {role: spent.get(method, 0.0) for role, spent in work.items()}
        color = "gainsboro" if method == "idle" else f"C{i}"
        axes.barh(
            list(work), list(seconds.values()), left=list(ends.values()), label=method.replace("_", " "), color=color
        )
        ends = {role: end + seconds[role] for role, end in ends.items()}
    axes.set(title="each role in the mean step", xlabel="seconds")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=len(methods), frameon=False)


def ledger_table(rows: Rows) -> str:
    """HTML: a row for each role with its idle share, arithmetic and memory, and what was generated a second."""
    step = _mean(rows, "time/step_seconds") or 0.0
    lines: list[str] = []
    for role in _mean_seconds(rows):
        idle = _mean(rows, f"perf/{role}_idle_seconds")
        cells = [
            "" if idle is None or not step else f"{idle / step:.0%}",
            _shown(_mean(rows, f"perf/{role}_tflops"), "{:.3g}"),
            _shown(_mean(rows, f"perf/{role}_mfu"), "{:.1%}") or "not known",
            _shown(_mean(rows, f"memory/{role}_peak_gb"), "{:.2f}"),
        ]
        lines.append(f"<tr><td>{role}</td>" + "".join(f"<td class='n'>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("a worker of", "idle", "TFLOP/s", "MFU", "peak GB")
    rates = [
        f"{rate:,.1f} {what}"
        for what in ("tokens", "images")
        if (rate := _mean(rows, f"throughput/{what}_per_second_per_gpu"))
    ]
    return (
        f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{''.join(lines)}</table>"
        f"<p>Each generating worker made {' and '.join(rates) or 'nothing'} a second.</p>"
    )


def _mean_seconds(rows: Rows) -> dict[str, dict[str, float]]:
    """Seconds of each method in the mean step, by role."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("perf/"))
    work: dict[str, dict[str, float]] = {}
    for role in ROLES:
        for name in names:
            head, tail = f"perf/{role}_", "_seconds"
            if name.startswith(head) and name.endswith(tail):
                mean = sum(row.get(name, 0.0) for row in rows) / len(rows)
                work.setdefault(role, {})[name.removeprefix(head).removesuffix(tail)] = mean
    return work


def _mean(rows: Rows, name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return sum(values) / len(values) if values else None


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
