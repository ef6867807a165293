"""The table of a workload's results: a row for each setting, columns by the kind of workload."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Column:
    """`cell` makes a result's text; one that lacks the figure (`KeyError`) gets a dash."""

    header: str
    cell: Callable[[dict], str]


def table(rows, columns):
    """In Markdown; the fastest first, for each variant of the work, and failures at the end."""
    done = [row for row in rows if "median_ms" in row]
    lines = [
        "| " + " | ".join(["setting", *(column.header for column in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in sorted(done, key=_order):
        cells = [f"{row['library']}: {row['label']}", *(_text(row, column) for column in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"| {row['library']}: {row['label']} | failed: {cell(row['error'])} |"
        for row in rows
        if "median_ms" not in row
    ]
    return "\n".join(lines)


def _order(row):
    _, *changes = row["workload"].values()
    return changes, row["median_ms"]


def _text(row, column):
    try:
        return column.cell(row)
    except KeyError:
        return "-"


def cell(text):
    return text.replace("|", "\\|")[:120]


def short(number):
    return f"{number:.3g}" if number < 100 else f"{number:.0f}"


def best(rows, select, figure="median_ms"):
    """The row with the least figure among those selected; `None` if there is none."""
    rows = [row for row in rows if "median_ms" in row and select(row)]
    return min(rows, key=lambda row: row[figure], default=None)


def second_run_s(row):
    """Seconds of as many steps as the first run has, all traced and compiled."""
    return row["median_ms"] * row["first_run_steps"] / 1000


def _first_run(row):
    """With a tilde where not all steps were run, see the README."""
    return ("" if row["first_run_is_measured"] else "~") + short(row["first_run_s"])


def _evaluations(row):
    return " + ".join(map(str, row.get("num_evaluations") or ["-"]))


_MEDIAN = Column("ms a step, median", lambda row: short(row["median_ms"]))
_MINIMUM = Column("minimum", lambda row: short(row["min_ms"]))
_FIRST_CALL = Column("first call, s", lambda row: f"{row['first_call_s']:.2f}")
_FIRST_RUN = Column("first run of 500 steps, s", _first_run)

TRAINING = (
    _MEDIAN,
    _MINIMUM,
    _FIRST_CALL,
    _FIRST_RUN,
    Column("evaluations forward + backward", _evaluations),
    Column("peak memory, MB", lambda row: f"{row['peak_memory_mb']:.0f}"),
    Column("gradient's relative error", lambda row: f"{row['relative_error']:.1e}"),
)
SPIRAL = (
    _FIRST_RUN,
    Column("second run, s", lambda row: short(second_run_s(row))),
    _MEDIAN,
    _MINIMUM,
    Column("first loss", lambda row: f"{row['initial_loss']:.4g}"),
    Column("final loss", lambda row: f"{row['final_loss']:.2e}"),
    Column("peak memory, MB", lambda row: f"{row['peak_memory_mb']:.0f}"),
)
FORWARD = (
    _FIRST_CALL,
    Column("second call, ms", lambda row: short(1000 * row["second_call_s"])),
    Column("later calls, ms, median", lambda row: short(row["median_ms"])),
    _MINIMUM,
    Column("evaluations", lambda row: str(row["num_evaluations"][0])),
    Column("relative error", lambda row: f"{row['relative_error']:.1e}"),
)
SERVE = (
    Column("ms a call, median", lambda row: short(row["calls_median_ms"])),
    Column("99th percentile", lambda row: short(row["calls_p99_ms"])),
    _FIRST_CALL,
    Column("relative error", lambda row: f"{row['relative_error']:.1e}"),
)
