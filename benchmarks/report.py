"""Tables and a plot of the results.

In the summary the fastest peer meets the fastest of ours that is no less accurate.
"""

import os
import pathlib
import platform

from matplotlib.figure import Figure

import kinds
import settings
import studies
from remarks import is_ours, of_defaults
from tables import best, cell, short, table

# Of the best peer's time, to be reached by the best of our settings.
TARGETS = {"mnist": 0.5, "mlp": 0.42, "conv": 0.55, "long": 0.6, "wide": 0.6, "cde": 0.7}
COLOURS = {
    settings.OURS: "#d55e00",
    settings.LIMIT: "#999999",
    "TFP": "#e69f00",
    "torchdiffeq": "#0072b2",
    "torchode": "#56b4e9",
    "torchcde": "#f0e442",
    "diffrax": "#009e73",
    "SciPy": "#cc79a7",
}


def machine(num_threads):
    """What the figures were measured on, in words."""
    model = platform.processor() or platform.machine()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":")[1].strip()
            break
    return f"{model}, {os.cpu_count()} cores, {num_threads} threads for each, no GPU"


def markdown(results):
    """All tables, and the best against the best."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = [
        "# Benchmarks",
        f"{results['machine']}. {results['num_rounds']} interleaved rounds. {versions}.",
    ]
    parts.append(_summary(results["workloads"]))
    if defaults := of_defaults(results["workloads"]):
        parts += ["Our layer with nothing chosen:", defaults]
    for name, rows in results["workloads"].items():
        kind = kinds.of(name)
        parts += [f"## {name}", table(rows, kind.columns), kind.remarks(rows)]
    for name, groups in results["studies"].items():
        parts += [f"## Study: {name}", _study(studies.make(name), groups)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _study(study, groups):
    """A row for each group, a column for each variant, with its ratio to the first."""
    lines = []
    for rows in groups:
        if not rows:
            continue
        if not lines:
            names = [study.variant(row) for row in rows]
            lines = [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        cells, first = [rows[0]["label"]], None
        for row in rows:
            if "error" in row:
                cells.append(f"failed: {cell(row['error'])}")
                continue
            figure = study.figure(row)
            first = first or figure
            cells.append(f"{short(figure)} ({figure / first:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    header = f"{study.question} {study.unit}, and in brackets the ratio to the first column."
    return header + "\n\n" + "\n".join(lines)


def _is_peer(row):
    return row["library"] not in (settings.OURS, settings.LIMIT)


def _as_accurate_as(peer):
    """Selects ours with at most the peer's error."""
    return lambda row: is_ours(row) and row["relative_error"] <= peer["relative_error"]


def _limit_of(ours):
    """Selects what takes as many evaluations and has no solver."""

    def select(row):
        if row["library"] != settings.LIMIT:
            return False
        return row["options"]["num_evaluations"] == ours["num_evaluations"][0]

    return select


def _summary(workloads):
    lines = [
        "| workload | our best | ms | best peer | ms | ratio (of minima) | to reach | "
        "ratio to straight | our error | best peer's error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in workloads.items():
        if not kinds.of(name).is_summed_up:
            continue
        peer = best(rows, _is_peer)
        ours = peer and (best(rows, _as_accurate_as(peer)) or best(rows, is_ours))
        if not ours:
            continue
        limit = best(rows, _limit_of(ours))
        ratios = [ours[key] / peer[key] for key in ("median_ms", "min_ms")]
        cells = [
            name,
            ours["label"],
            short(ours["median_ms"]),
            f"{peer['library']} {peer['label']}",
            short(peer["median_ms"]),
            "{:.2f} ({:.2f})".format(*ratios),
            str(TARGETS.get(name, "-")),
            f"{ours['median_ms'] / limit['median_ms']:.2f}" if limit else "-",
            f"{ours['relative_error']:.1e}",
            f"{peer['relative_error']:.1e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def plot(results, path):
    """Bars of the median time, a panel for each workload, the fastest on top."""
    panels = {
        name: sorted((r for r in rows if "median_ms" in r), key=lambda r: -r["median_ms"])
        for name, rows in results["workloads"].items()
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    if not panels:
        return
    heights = [len(rows) + 3 for rows in panels.values()]
    figure = Figure(figsize=(9, 0.22 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (name, rows) in zip(axes, panels.items(), strict=True):
        medians = [row["median_ms"] for row in rows]
        labels = [f"{row['library']}: {row['label']}" for row in rows]
        bars = axis.barh(labels, medians, color=[COLOURS[row["library"]] for row in rows])
        axis.plot([row["min_ms"] for row in rows], labels, "k|", label="minimum")
        axis.bar_label(bars, [short(m) for m in medians], padding=3, fontsize=7)
        axis.set_xscale("log")
        axis.set_xlim(right=max(medians) * 1.5)
        axis.tick_params(axis="y", labelsize=7)
        axis.margins(y=0.01)
        axis.set_title(f"{name}: ms a step, median (tick: minimum)", fontsize=9)
    figure.savefig(path, dpi=130)
