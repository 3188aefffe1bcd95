"""The scan of the layers: what it measures, what it remembers, what it leaves alone."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy_nets import toy_candidate, toy_context

from netpress.errors import ModelError, RecipeError
from netpress.measure.cost import cost
from netpress.methods.sensitivity import Trial, scan
from netpress.train.evaluate import evaluate


def scaled(candidate, path, factor, calls):
    """A trial: one layer's weights times a factor; every call to make it is noted."""

    def make():
        calls.append((path, factor))
        net = deepcopy(candidate.net)
        with torch.no_grad():
            net.get_submodule(path).weight.mul_(factor)
        return net if factor % 2 else candidate.but(net=net)

    return Trial("svd", (factor,), macs=10 * factor, params=factor, make=make)


@pytest.fixture
def case(tmp_path):
    candidate, calls = toy_candidate("plain"), []
    trials = {path: [scaled(candidate, path, k, calls) for k in (0, 3)] for path in ("conv2", "fc1")}
    return candidate, trials, replace(toy_context(), scratch=tmp_path), calls


def test_rows_hold_what_evaluating_gives_and_the_network_is_left_alone(case):
    candidate, trials, context, _ = case
    before = {name: tensor.clone() for name, tensor in candidate.net.state_dict().items()}
    flags = [module.training for module in candidate.net.modules()]
    rows = scan(candidate, trials, context)
    assert list(rows) == ["conv2", "fc1"]
    layers = {layer.path: layer for layer in cost(candidate.net, candidate.inputs.shape).layers}
    plain = evaluate(candidate.net, context.validation, candidate.inputs)
    for path, (untouched, *tried) in rows.items():
        assert untouched == {
            "path": path,
            "operation": None,
            "numbers": [],
            "macs": layers[path].macs,
            "params": layers[path].params,
            "top1": plain.top1,
            "loss": plain.loss,
        }
        for row, trial in zip(tried, trials[path], strict=True):
            made = trial.make()
            scores = evaluate(getattr(made, "net", made), context.validation, candidate.inputs)
            assert (row["top1"], row["loss"]) == (scores.top1, scores.loss)
            assert (row["operation"], row["numbers"]) == ("svd", list(trial.numbers))
            assert (row["macs"], row["params"]) == (trial.macs, trial.params)
    assert all(torch.equal(before[name], tensor) for name, tensor in candidate.net.state_dict().items())
    assert flags == [module.training for module in candidate.net.modules()]


def test_a_second_scan_measures_nothing_again(case, tmp_path):
    candidate, trials, context, calls = case
    cache = tmp_path / "sensitivity.jsonl"
    first = scan(candidate, trials, context, cache=cache)
    assert len(calls) == 4
    held = cache.read_bytes()
    assert len(held.splitlines()) == 5
    assert scan(candidate, trials, context, cache=cache) == first
    assert (len(calls), cache.read_bytes()) == (4, held)


def test_an_interrupted_scan_goes_on(case, tmp_path):
    candidate, trials, context, calls = case
    cache = tmp_path / "sensitivity.jsonl"
    whole = scan(candidate, trials, context, cache=cache)
    held = cache.read_text()
    calls.clear()
    cache.write_text(held[: held.rindex('"top1"')])  # killed while the last row was written
    assert scan(candidate, trials, context, cache=cache) == whole
    assert calls == [("fc1", 3)]
    assert cache.read_text() == held


@pytest.mark.parametrize("what", ["weights", "settings", "sample", "seed", "seed alone", "structure", "labels"])
def test_rows_of_something_else_are_not_used(case, tmp_path, what):
    candidate, trials, context, calls = case
    samples = 1024 if what == "seed alone" else 16  # all images: the trials may still depend on the seed
    cache, settings = tmp_path / "sensitivity.jsonl", {"kind": "svd"}
    scan(candidate, trials, context, samples=samples, settings=settings, cache=cache)
    calls.clear()
    if what == "weights":
        with torch.no_grad():
            candidate.net.fc2.bias[0] += 1e-6
    elif what == "settings":
        settings = {"kind": "cp"}
    elif what == "sample":
        samples = 17
    elif what.startswith("seed"):
        context = replace(context, seed=context.seed + 1)
    elif what == "structure":
        candidate.net.drop = nn.Identity()
    else:
        context = replace(context, validation=context.validation.select(torch.arange(32).flip(0)))
    scan(candidate, trials, context, samples=samples, settings=settings, cache=cache)
    assert len(calls) == 4
    assert len({json.loads(line)["key"] for line in cache.read_text().splitlines()}) == 2


@pytest.mark.parametrize("junk", ["", "no json\n", "[1]\n", '{"key": 1}\n', '{"key": "a", "row": {"path": "b"}}\n'])
def test_a_damaged_cache_is_measured_again(case, tmp_path, junk):
    candidate, trials, context, _ = case
    cache = tmp_path / "sensitivity.jsonl"
    cache.write_text(junk)
    assert scan(candidate, trials, context, cache=cache) == scan(candidate, trials, context)
    assert len(cache.read_text().splitlines()) == 5


def test_the_sample_is_drawn_by_seed_and_holds_every_class(case):
    candidate, trials, context, _ = case
    one, again = (scan(candidate, trials, context, samples=8) for _ in range(2))
    other = scan(candidate, trials, replace(context, seed=11), samples=8)
    assert one == again != other
    assert all((8 * row["top1"]).is_integer() for rows in one.values() for row in rows)


def test_without_validation_the_training_images_serve(case):
    candidate, trials, context, _ = case
    rows = scan(candidate, trials, replace(context, validation=None))
    assert rows["fc1"][0]["top1"] == evaluate(candidate.net, context.train, candidate.inputs).top1
    with pytest.raises(RecipeError, match="needs data"):
        scan(candidate, trials, replace(context, validation=None, train=None))


def test_a_loss_that_is_no_number_is_told_as_none(case, tmp_path):
    candidate, _, context, calls = case
    broken = replace(scaled(candidate, "fc1", 3, calls), make=lambda: _broken(candidate))
    rows = scan(candidate, {"fc1": [broken]}, context, cache=tmp_path / "a.jsonl")
    assert rows["fc1"][1]["loss"] is None
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def _broken(candidate):
    net = deepcopy(candidate.net)
    nn.init.constant_(net.fc1.weight, float("nan"))
    return net


def test_progress_is_shown(case):
    candidate, trials, context, _ = case
    seen = []
    told = replace(context, progress=lambda what, done, count, numbers: seen.append((what, done, count, *numbers)))
    scan(candidate, trials, told)
    assert seen == [("scan of the layers", k, 4, "top-1") for k in (1, 2, 3, 4)]


def test_a_network_that_does_not_take_the_images_is_refused(case):
    candidate, trials, context, _ = case
    candidate.net.fc1 = nn.Linear(7, 12)
    with pytest.raises(ModelError, match="does not take"):
        scan(candidate, trials, context)


def test_nothing_to_try_gives_nothing(case):
    candidate, _, context, _ = case
    assert scan(candidate, {}, context) == {}
    assert [row["numbers"] for row in scan(candidate, {"fc1": []}, context)["fc1"]] == [[]]
