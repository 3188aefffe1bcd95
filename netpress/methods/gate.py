"""The accuracy gate of quantization: which layers stay float so that no more than so many points are lost."""

from __future__ import annotations

from collections.abc import Mapping

from netpress.candidate import Candidate, Context
from netpress.methods.integers import Whole
from netpress.methods.sensitivity import Row, Trial, scan
from netpress.train.evaluate import evaluate


def keep_worst(
    before: Candidate, whole: Whole, context: Context, *, kept: Mapping[str, str], settings: Mapping[str, float]
) -> dict[str, str]:
    """Keep the layers float that cost most, as few as the gate needs.

    Layers are ordered by the loss of the network in which only they are in integers; how many of them must stay is
    found by halving, as if more floats were never worse.

    Args:
        before: the candidate whose validation top-1 is the measure.
        whole: builds the candidates.
        context: its validation split decides.
        kept: layers that stay float in any case.
        settings: `max_drop` in points; `samples`: images of the scan.

    Returns:
        Path of each layer that stays float -> why, with what it costs.
    """
    validation, drop = context.validation, settings["max_drop"]
    assert validation is not None
    first = evaluate(before.net, validation, before.inputs, device=context.device).top1

    def lost(paths: list[str]) -> float:
        made, _ = whole.build({*kept, *paths})
        context.progress("accuracy gate", len(paths), len(whole.targets), {})
        net = made.net.to(context.device)
        return 100 * (first - evaluate(net, validation, made.inputs, device=context.device).top1)

    if (whole_loss := lost([])) <= drop:
        return {}
    rows = _costs(whole, context, kept, samples=int(settings["samples"]))
    order = sorted(rows, key=lambda path: -rows[path])
    low, high = 0, len(order)  # `low` layers are too few; with all of them float nothing is lost
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if lost(order[:middle]) <= drop else (middle, high)
    why = f"all layers in integers lost {whole_loss:.2f} points, the gate allows {drop:g}"
    return {path: f"alone it adds {rows[path]:+.3g} to the loss; {why}" for path in order[:high]}


def _costs(whole: Whole, context: Context, kept: Mapping[str, str], *, samples: int) -> dict[str, float]:
    """By layer, how much it adds to the loss when it alone is in integers."""
    paths = [target.path for target in whole.targets if target.path not in kept]

    def trial(path: str, bits: int) -> Trial:
        others = {target.path for target in whole.targets} - {path}
        return Trial("integers", (bits,), 0, 0, lambda: whole.build(others)[0])

    trials = {t.path: [trial(t.path, whole.layer_bits(t))] for t in whole.targets if t.path in paths}
    cache = None if context.scratch is None else context.scratch / "scan.jsonl"
    found = scan(whole.ready, trials, context, samples=samples, settings={"rules": repr(whole.rules)}, cache=cache)
    return {path: _loss(rows[-1]) - _loss(rows[0]) for path, rows in found.items()}


def _loss(row: Row) -> float:
    return float("inf") if row["loss"] is None else row["loss"]
