"""What a workload's results say of ours beside the others: ratios, and what they are to reach."""

import itertools
import math

import settings
from tables import best, second_run_s, short


def is_ours(row):
    return row["library"] == settings.OURS


def _is_default(row):
    """Whether it is our layer with nothing chosen."""
    options = row["options"]
    chosen = set(options) - settings.CHOICES_OF_SPEED
    return is_ours(row) and options.get("gradient") == options.get("xla") == "auto" and not chosen


def _is_choice(row):
    """Whether it is ours with the default's solver and tolerances, gradient and XLA chosen."""
    chosen = set(row["options"]) - settings.CHOICES_OF_SPEED
    return is_ours(row) and not chosen and not _is_default(row)


def _of(library):
    return lambda row: row["library"] == library


def of_defaults(workloads):
    """A table: our layer with nothing chosen against the fastest choice, on every workload."""
    lines = [
        "| workload | default, ms a step | our fastest choice | ms | ratio (to reach: 1.25) | "
        "default, first run, s | our quickest choice | s | ratio (to reach: 1.1) |",
        "|---" * 9 + "|",
    ]
    for name, rows in workloads.items():
        default, fastest = best(rows, _is_default), best(rows, _is_choice)
        if not (default and fastest):
            continue
        quickest = best(rows, _is_choice, "first_run_s")
        cells = [name]
        for other, figure in ((fastest, "median_ms"), (quickest, "first_run_s")):
            cells += [short(default[figure]), other["label"], short(other[figure])]
            cells.append(f"{default[figure] / other[figure]:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def of_training(rows):
    """First calls, and TFP in the same mode."""
    lines = []
    for mode, xla in (("graph", False), ("XLA", True)):
        ours = best(rows, lambda row: is_ours(row) and row["options"]["xla"] is xla)
        stock = best(rows, lambda row: row["library"] == "TFP" and row["options"]["xla"] is xla)
        if ours is None:
            continue
        line = f"- {mode}: our best ({ours['label']}) first call {ours['first_call_s']:.2f} s"
        if stock is not None:
            ratio = stock["median_ms"] / ours["median_ms"]
            line += f"; {ratio:.1f} times as fast as TFP in the same mode"
        lines.append(line + ".")
    diffrax = best(rows, _of("diffrax"))
    if diffrax is not None:
        lines.append(f"- diffrax's best: first call {diffrax['first_call_s']:.2f} s.")
    return "\n".join(lines)


def of_each_peer(rows):
    """Our best and our default beside each peer's best."""
    ours = {"our best": best(rows, is_ours), "our default": best(rows, _is_default)}
    lines = []
    for library in settings.LIBRARIES_OF_PEERS:
        peer = best(rows, _of(library))
        if peer is None:
            continue
        ratios = [
            f"{what} ({row['label']}) {row['median_ms'] / peer['median_ms']:.3f} times"
            for what, row in ours.items()
            if row
        ]
        best_of_peer = f"{library}'s best ({peer['label']}, {short(peer['median_ms'])} ms)"
        lines.append(f"- Of the time of {best_of_peer}: {', '.join(ratios) or '-'}.")
    return "\n".join(lines)


def of_fit(rows):
    """Ms a batch above the model with Identity, the faster of its two modes."""
    limit = best(rows, _of(settings.LIMIT))
    if limit is None:
        return ""
    lines = [
        f"Above the same model with Identity ({limit['label']}, {limit['median_ms']:.2f} ms a "
        "batch), median of the rounds' differences:\n",
        "| setting | ms a batch |\n|---|---|",
    ]
    above = []
    for row in rows:
        if is_ours(row) and "median_ms" in row:
            # Whoever is slow has had fewer rounds.
            pairs = zip(row["rounds_ms"], limit["rounds_ms"], strict=False)
            differences = sorted(mine - base for mine, base in pairs)
            above.append((differences[len(differences) // 2], row["label"]))
    lines += [f"| {label} | {difference:.2f} |" for difference, label in sorted(above)]
    return "\n".join(lines)


def of_spiral(rows):
    """The default's runs against those of the peers in their best settings."""
    default = best(rows, _is_default)
    if default is None:
        return ""
    lines = [f"- Our default's first run: {short(default['first_run_s'])} s (to reach: 2.0)."]
    for library, figure, what, reach in (
        ("diffrax", "first_run_s", "first run", 0.9),
        ("torchdiffeq", "first_run_s", "first run", 0.05),
        ("diffrax", "median_ms", "second run", 1.2),
    ):
        peer = best(rows, _of(library), figure)
        if peer is not None:
            seconds = peer["first_run_s"] if figure == "first_run_s" else second_run_s(peer)
            lines.append(
                f"- Its {what} is {default[figure] / peer[figure]:.2f} times that of {library} "
                f"({peer['label']}, {short(seconds)} s; to reach: {reach})."
            )
    return "\n".join(lines)


def of_lotka_volterra(rows):
    """Eager calls against SciPy's."""
    ours = best(rows, lambda row: is_ours(row) and row["options"]["mode"] == "auto")
    scipy = best(rows, _of("SciPy"))
    if ours is None or scipy is None:
        return ""
    ratio = 1000 * ours["second_call_s"] / scipy["median_ms"]
    return (
        f"Our eager call ({ours['label']}): the first {ours['first_call_s']:.2f} s (to reach: 1), "
        f"the second {ratio:.2f} times SciPy's calls (to reach: 0.2)."
    )


def of_lorenz(rows):
    """Ratios to SciPy at the same tolerance, and at the same error where there is one."""
    lines = []
    for workload, pair in itertools.groupby(rows, key=lambda row: row["workload"]):
        pair = list(pair)
        ours, scipy = best(pair, is_ours), best(pair, _of("SciPy"))
        if ours is None or scipy is None:
            continue
        what = f"To {workload['end']:.0f} at {workload['tolerance']:.0e}"
        ratio = ours["median_ms"] / scipy["median_ms"]
        lines.append(f"- {what}: {ratio:.4f} times SciPy (to reach: 0.01).")
        ms = "relative_error" in scipy and _ms_at_error(rows, scipy["relative_error"])
        if ms:
            ratio = ms / scipy["median_ms"]
            lines[-1] += f" At SciPy's error there, {scipy['relative_error']:.1e}: {ratio:.4f}."
    return "\n".join(lines)


def _ms_at_error(rows, error):
    """Our time for that error, between two tolerances along a power of it; `None` beyond them."""
    points = sorted(
        (row["relative_error"], row["median_ms"])
        for row in rows
        if is_ours(row) and "median_ms" in row and "relative_error" in row
    )
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if low <= error <= high:
            share = math.log(error / low) / math.log(high / low)
            return slow * (fast / slow) ** share
    return None


def of_serve(rows):
    """What a solve adds to an exported Dense layer, and the ratios to the peers."""
    lines = []
    for batch, of_batch in itertools.groupby(rows, key=lambda row: row["workload"]["batch"]):
        of_batch = list(of_batch)
        ours = best(of_batch, is_ours)
        if ours is None:
            continue
        words = [f"ours {_latency(ours)}"]
        for library, name, reach in (
            (settings.LIMIT, "a Dense layer", {1: "+0.15 ms"}),
            ("torchdiffeq", "torchdiffeq", {1: "0.5 times"}),
            ("diffrax", "diffrax", {256: "1 time"}),
        ):
            other = best(of_batch, _of(library), "calls_median_ms")
            if other is not None:
                difference = ours["calls_median_ms"] - other["calls_median_ms"]
                ratio = ours["calls_median_ms"] / other["calls_median_ms"]
                goal = f" (to reach: {reach[batch]})" if batch in reach else ""
                words.append(
                    f"{name} {_latency(other)}: {difference:+.3f} ms, {ratio:.2f} times{goal}"
                )
        samples = "One sample" if batch == 1 else f"{batch} samples"
        lines.append(f"- {samples}, median and 99th percentile in ms: {'; '.join(words)}.")
    return "\n".join(lines)


def _latency(row):
    return f"{row['calls_median_ms']:.3f} and {row['calls_p99_ms']:.3f}"
