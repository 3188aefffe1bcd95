"""The end of a run in a few lines: its steps, its budget, what was gained, where the files lie."""

from __future__ import annotations

from netpress.budget import told
from netpress.inspect import table
from netpress.job import Run
from netpress.report.folder import read_run


def text(done: Run) -> str:
    """What a run comes to, for people.

    Args:
        done: a finished run.
    """
    numbers, final, baseline = done.metrics, done.metrics["final"], done.metrics["baseline"]
    rows = [
        [
            *(row["name"], row["file_bytes"], 4 * baseline["params"] / row["file_bytes"], row["nonzero"]),
            *(100 * row["top1"], 100 * row["validation"]["top1"], row["seconds"]),
        ]
        for row in [baseline, *numbers["steps"]]
    ]
    lines = [table(rows, ["step", "bytes", "ratio", "nonzero", "top-1 %", "validation %", "seconds"])]
    lines += told(numbers["budget"])
    lines += [f"budget {limit}: could not be measured: MISSED" for limit in numbers["unmeasured"]]
    if numbers["steps"]:
        points = round(100 * (final["top1"] - baseline["top1"]), 2) + 0.0  # + 0.0: never "-0.00"
        compared = f"baseline {baseline['top1']:.2%} ({points:+.2f} points)"
        lines.append(
            f"{numbers['ratio']:.1f}x smaller: {4 * baseline['params']:,} -> {final['file_bytes']:,} bytes; "
            f"top-1 {final['top1']:.2%}, "
            + ("the baseline is the untrained network" if read_run(done.folder).untrained else compared)
        )
    return "\n".join([*lines, f"file   {done.folder / 'model.press'}", f"report {done.folder / 'report.html'}"])
