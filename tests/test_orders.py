"""Every order of pruning, sharing, binarizing and quantizing: refused when read, or nothing is lost on the way."""

import itertools

import contract
import pytest
import toy_nets
from contract import one_thread  # noqa: F401

from netpress import recipe
from netpress.errors import RecipeError
from netpress.forms import Affine, Shared, Signs

STEPS = {
    "prune": {"method": "weight_prune", "sparsity": 0.5},
    "share": {"method": "weight_share", "bits": {"linear": 3, "conv2": 4}},
    "binarize": {"method": "pattern_binarize", "layers": ["conv1"], "scale": "channel"},
    "quantize": {"method": "quantize", "kernels": "reduced", "samples": 32},
}
WEIGHTS_ONLY = {**STEPS, "quantize": {"method": "quantize", "activations": "float"}}
BREAKS = {  # (first, then): what "then" would break
    ("binarize", "prune"): "signs",
    ("binarize", "share"): "signs",
    ("quantize", "prune"): "affine",
    ("quantize", "share"): "affine",
}
ORDERS = list(itertools.permutations(STEPS))


def refused(order, steps):
    """Whether an earlier step gives what a later one would break."""
    pairs = list(itertools.combinations(order, 2))
    return any(pair in BREAKS for pair in pairs) or (
        ("quantize", "binarize") in pairs and steps["quantize"].get("activations") != "float"
    )


@pytest.mark.parametrize("steps", [STEPS, WEIGHTS_ONLY], ids=["integers", "weights"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_every_order_is_kept_or_refused(order, steps):
    plain = {"step": [steps[name] for name in order]}
    if refused(order, steps):
        with pytest.raises(RecipeError, match=r"would break the '(signs|affine|rounded)' form"):
            recipe.parse(plain)
        return
    before = [toy_nets.toy_candidate("plain")]
    for step in recipe.parse(plain).steps():
        made = step.method.apply(before[-1], toy_nets.toy_context(step=step.number))
        before.append(contract.trained_our_way(made, "sgd", epochs=1))
    end = before[-1]
    assert not contract.broken(end)
    for earlier in before[1:]:
        assert contract.forgotten(earlier, end) == []
    first = Signs if order.index("binarize") < order.index("quantize") else Affine
    assert type(end.forms["conv1.weight"].values) is first
    for name in ("conv2.weight", "fc1.weight", "fc2.weight"):
        form = end.forms[name]
        assert type(form.values) is Shared
        assert form.step is not None, "a table that is not on the grid"
        assert form.support is not None
        assert not form.support.all()


def test_some_orders_are_kept_and_some_refused():
    kept = [order for order in ORDERS if not refused(order, STEPS)]
    assert sorted(kept) == [("prune", "share", "binarize", "quantize"), ("share", "prune", "binarize", "quantize")]
    assert len([order for order in ORDERS if not refused(order, WEIGHTS_ONLY)]) == 4
