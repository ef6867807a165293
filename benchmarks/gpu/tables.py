"""Tables of what `race.py` measured.

    python -m gpu.tables result.json

Errors are compared at equal accuracy: a peer's time at our error is read off its own times and
errors over the tolerances, on logarithmic axes.
"""

import json
import math
import pathlib
import statistics
import sys

import numpy as np

from gpu import problems, rows

MAIN_TOLERANCE = repr(problems.MAIN_TOLERANCE)


def median(row, tolerance, key="ms"):
    taken = row.get(key, {}).get(tolerance)
    return statistics.median(taken) if taken else math.nan


def curve(row):
    """(error, ms) over the tolerances, what was done and timed."""
    points = [
        (check["error"], median(row, tolerance))
        for tolerance, check in row.get("checks", {}).items()
        if check["done"]
    ]
    return sorted((e, ms) for e, ms in points if e > 0 and ms > 0)  # false for NaN


def time_at(points, error):
    """A row's time at an error, interpolated; infinite where it is never so accurate.

    Where it is always more accurate, the time of its least accurate point.
    """
    if not points or error < points[0][0]:
        return math.inf
    errors, ms = np.log(np.asarray(points)).T
    return float(np.exp(np.interp(math.log(error), errors, ms)))


def _is_ours(name):
    return name.startswith(rows.TRAVELS + ".")


def _precision(name):
    return name.removesuffix(".on_device").rsplit(".", 1)[1]


def against_peers(measured):
    """For each tolerance and precision our fastest against the fastest peer at the same error.

    Yields `(tolerance, our name, error, ms, peer's name, its ms)`.
    """
    curves = {name: curve(row) for name, row in measured.items() if "failed" not in row}
    precisions = dict.fromkeys(map(_precision, curves))
    tolerances = dict.fromkeys(t for row in measured.values() for t in row.get("checks", {}))
    for precision in precisions:
        peers = {n: c for n, c in curves.items() if not _is_ours(n) and _precision(n) == precision}
        for tolerance in tolerances:
            best = None
            for name, row in measured.items():
                if not _is_ours(name) or _precision(name) != precision or name not in curves:
                    continue
                error = row["checks"].get(tolerance, {}).get("error", math.nan)
                ms = median(row, tolerance)
                if not (ms > 0 and error > 0):
                    continue
                found = {n: time_at(c, error) for n, c in peers.items()}
                if not found:
                    continue
                peer = min(found, key=found.get)
                line = (tolerance, name, error, ms, peer, found[peer])
                if best is None or ms / line[-1] < best[3] / best[-1]:
                    best = line
            if best is not None:
                yield best


def wrong(measured):
    """Our rows in full precision whose numbers aren't TensorFlow's.

    Where the steps agree, they may differ by 1e-4; else the error may be 1.1 times that on the CPU.
    """
    for name, row in measured.items():
        if not _is_ours(name) or _precision(name) != "float32":
            continue
        for tolerance, check in row.get("checks", {}).items():
            if "against_tensorflow" not in check:
                continue
            same_steps = check["steps"] == check["tensorflow_steps"]
            close = check["against_tensorflow"] <= 1e-4
            if not (same_steps and close) and not check["error"] <= 1.1 * check["tensorflow_error"]:
                yield name, tolerance, check


def text(result):
    parts = [json.dumps(result["about"])]
    for name, measured in result["problems"].items():
        parts.append(_table(name, measured))
    lines = ["Against the fastest peer at the same error", _line(_SUMMARY)]
    for name, measured in result["problems"].items():
        target = problems.PROBLEMS[name].target
        for tolerance, ours, error, ms, peer, peer_ms in against_peers(measured):
            ratio = ms / peer_ms
            verdict = "" if math.isinf(peer_ms) else "yes" if ratio <= target else "NO"
            cells = (name, tolerance, ours, f"{error:.1e}", f"{ms:.3f}", peer, f"{peer_ms:.3f}")
            lines.append(_line((*cells, f"{ratio:.2f}", f"{target} {verdict}")))
    parts.append("\n".join(lines))
    found = [
        f"WRONG {problem} {name} at {tolerance}: {check}"
        for problem, measured in result["problems"].items()
        for name, tolerance, check in wrong(measured)
    ]
    parts.append(
        "\n".join(found) or "All of our programs in full precision give TensorFlow's numbers."
    )
    return "\n\n".join(parts)


_SUMMARY = ("problem", "at", "ours", "error", "ms", "peer", "ms", "ratio", "wanted")


def _line(cells):
    widths = (11, 6, 52, 8, 9, 46, 9, 6, 8)
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))


def _table(problem, measured):
    header = f"{problem} at {MAIN_TOLERANCE}"
    lines = [
        f"{header:54} {'ms':>8} {'min':>8} {'pipelined':>9} {'error':>8} {'vs TF':>8} "
        f"{'steps':>10} {'compile':>7} {'kernels':>7} {'busy':>7}"
    ]
    order = sorted(measured.items(), key=lambda item: _or_last(median(item[1], MAIN_TOLERANCE)))
    for name, row in order:
        taken = row.get("ms", {}).get(MAIN_TOLERANCE)
        if "failed" in row or not taken:
            lines.append(f"{name:54} {row.get('failed', 'not timed')[:110]}")
            continue
        check, profile = row["checks"][MAIN_TOLERANCE], row.get("profile", {})
        against = check.get("against_tensorflow")
        steps = "+".join(map(str, check["steps"][:2])) if check["steps"] else ""
        lines.append(
            f"{name:54} {median(row, MAIN_TOLERANCE):8.3f} {min(taken):8.3f} "
            f"{median(row, MAIN_TOLERANCE, 'pipelined_ms'):9.3f} {check['error']:8.1e} "
            f"{'' if against is None else f'{against:.1e}':>8} {steps:>10} "
            f"{row['compile_s']:7.1f} {profile.get('kernels', ''):>7} "
            f"{profile.get('busy_ms', math.nan):7.3f}"
        )
    return "\n".join(lines)


def _or_last(x):
    return math.inf if math.isnan(x) else x


if __name__ == "__main__":
    print(text(json.loads(pathlib.Path(sys.argv[1]).read_text())))
