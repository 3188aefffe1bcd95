"""Recipes: read whole, told whole. Every mistake in one line, all of them at once."""

from __future__ import annotations

import tomllib
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_methods_contract import bad_values

from netpress import methods, recipe
from netpress.errors import RecipeError
from netpress.methods import WeightPrune
from netpress.recipe import Recipe, StepSpec, parse, presets, read
from netpress.train import Training

GOOD: dict[str, Any] = {
    "network": {"name": "lenet5"},
    "data": {"name": "digits"},
    "baseline": {"epochs": 1},
    "step": [
        {"method": "weight_prune", "sparsity": [0.5, 0.9], "train": {"epochs": 1}},
        {"method": "weight_share", "bits": {"conv": 4, "linear": 3}},
    ],
    "budget": {"max_drop": 1.0, "max_size": "20kB"},
}


@pytest.mark.parametrize("name", presets())
def test_presets_are_good_and_say_how_to_run_them(name):
    found = read(name)
    assert found.title
    assert list(found.steps()) or name == "train"
    text = (recipe.files("netpress") / "recipes" / f"{name}.toml").read_text().splitlines()
    assert text[0].startswith("# ")
    assert text[1].startswith("# netpress ")


@pytest.mark.parametrize("name", presets())
def test_a_preset_as_toml_reads_as_the_same_recipe(name, tmp_path):
    first = read(name)
    path = tmp_path / "again.toml"
    path.write_text(first.to_toml())
    assert read(path) == first
    assert read(path).to_toml() == first.to_toml()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 0.99), min_size=1, max_size=3) | st.floats(0, 0.99),
    st.integers(1, 12) | st.dictionaries(st.sampled_from(["conv", "linear", "fc*"]), st.integers(1, 12), min_size=1),
    st.floats(1e-5, 10),
    st.sampled_from(["adamw", "sgd"]),
)
def test_any_recipe_survives_toml(sparsity, bits, lr, optimizer):
    plain = {
        "network": {"name": "lenet5", "settings": {"num_classes": 7}},
        "step": [
            {"method": "weight_prune", "sparsity": sparsity, "train": {"lr": lr, "optimizer": optimizer}},
            {"method": "weight_share", "bits": bits},
        ],
    }
    first = parse(plain)
    assert parse(tomllib.loads(first.to_toml())) == first


def test_lists_become_rounds():
    assert [(s.number, s.name) for s in parse(GOOD).steps()] == [
        (1, "01-weight_prune"),
        (2, "02-weight_prune"),
        (3, "03-weight_share"),
    ]
    rounds = [s.method.sparsity for s in parse(GOOD).steps() if s.method.name == "weight_prune"]
    assert rounds == [0.5, 0.9]


def test_recipes_from_python_equal_those_from_data():
    spec = StepSpec(method=WeightPrune(sparsity=0.5), train=Training(epochs=2))
    mine = Recipe(step=(spec,))
    assert mine == parse({"step": [{"method": "weight_prune", "sparsity": 0.5, "train": {"epochs": 2}}]})
    assert read(mine) is mine


def with_step(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "step": [{"method": "weight_prune", "sparsity": 0.5, **changes}]}


BAD: dict[str, tuple[Any, list[str]]] = {
    "key": ({**GOOD, "networks": {}}, ["networks: unknown key; did you mean 'network'?"]),
    "network key": ({**GOOD, "network": {"name": "lenet5", "weigths": "a"}}, ["network.weigths: unknown key"]),
    "no network name": ({**GOOD, "network": {}}, ["network.name: Field required"]),
    "method": (with_step(method="wieght_prune"), ["step[0]: unknown method 'wieght_prune'", "'weight_prune'?"]),
    "no method": ({**GOOD, "step": [{"sparsity": 0.5}]}, ["step[0]: expected a table with method"]),
    "step is no list": ({**GOOD, "step": "prune"}, ["step"]),
    "field": (with_step(sparsty=0.5), ["step[0] (weight_prune).sparsty: unknown key; did you mean 'sparsity'?"]),
    "range": (with_step(sparsity=1.5), ["step[0] (weight_prune).sparsity", "less than 1", "1.5"]),
    "range in a list": (with_step(sparsity=[0.5, -1]), ["step[0] (weight_prune).sparsity", "-1"]),
    "range in a table": (with_step(sparsity={"conv": 2}), ["step[0] (weight_prune).sparsity.conv", "less than 1", "2"]),
    "choice": (with_step(score="size"), ["step[0] (weight_prune).score", "'magnitude' or 'saliency'", "'size'"]),
    "both": (with_step(threshold_std=1.0), ["step[0]", "give one of sparsity and threshold_std"]),
    "neither": ({**GOOD, "step": [{"method": "weight_prune"}]}, ["step[0]", "give one of sparsity and threshold_std"]),
    "lengths": (with_step(sparsity={"conv": [0.1], "fc1": [0.1, 0.2]}), ["step[0]", "one length", "[1, 2]"]),
    "empty list": (with_step(sparsity=[]), ["step[0]", "at least 1"]),
    "global table": (with_step(sparsity={"conv": 0.5}, scope="global"), ["step[0]", "scope = 'global' needs one"]),
    "train key": (with_step(train={"epoch": 3}), ["step[0].train.epoch: unknown key; did you mean 'epochs'?"]),
    "train range": (with_step(train={"lr": 0}), ["step[0].train.lr", "greater than 0", "got 0"]),
    "baseline range": ({**GOOD, "baseline": {"epochs": -1}}, ["baseline.epochs", "greater than or equal to 0", "-1"]),
    "baseline type": ({**GOOD, "baseline": {"epochs": "many"}}, ["baseline.epochs", "integer", "'many'"]),
    "budget key": ({**GOOD, "budget": {"max_dorp": 1}}, ["budget.max_dorp: unknown key"]),
    "budget unit": ({**GOOD, "budget": {"max_size": "5 parsecs"}}, ["budget.max_size", "unit 'parsecs' is unknown"]),
    "budget zero": ({**GOOD, "budget": {"max_macs": "0"}}, ["budget.max_macs", "more than zero", "'0'"]),
    "budget range": ({**GOOD, "budget": {"max_drop": 101}}, ["budget.max_drop", "less than or equal to 100", "101"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipes_are_told_in_one_line(case):
    plain, parts = BAD[case]
    with pytest.raises(RecipeError) as caught:
        parse(plain)
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_all_mistakes_are_told_at_once():
    plain = {
        "title": 7,
        "network": {"nam": "lenet5"},
        "baseline": {"epochs": -1, "lr": 100},
        "step": [
            {"method": "weight_prune", "sparsity": 2, "sampels": 3, "train": {"batch": 0, "flips": True}},
            {"method": "weight_shore"},
            {"method": "weight_share", "bits": 99, "init": "best"},
            {"method": "weight_prune"},
        ],
        "budget": {"max_size": "much", "max_drop": -1},
        "extra": 1,
    }
    with pytest.raises(RecipeError) as caught:
        parse(plain)
    text = str(caught.value)
    assert "\n" not in text
    for part in (
        "title", "network.name", "network.nam:", "baseline.epochs", "baseline.lr", "step[0] (weight_prune).sparsity",
        "step[0] (weight_prune).sampels", "step[0].train.batch", "step[0].train.flips", "'weight_shore'",
        "step[2] (weight_share).bits", "step[2] (weight_share).init", "step[3]", "give one of", "budget.max_size",
        "budget.max_drop", "extra: unknown key",
    ):  # fmt: skip
        assert part in text, part


def _training_cases() -> list[tuple[str, Any]]:
    hints = get_type_hints(Training, include_extras=True)
    return [(name, value) for name in Training.model_fields for value in bad_values(hints[name])]


def test_every_field_of_a_training_has_bad_values():
    assert {name for name, _ in _training_cases()} == set(Training.model_fields)
    assert len(_training_cases()) > 40


@pytest.mark.parametrize(("name", "value"), _training_cases())
def test_trainings_out_of_range_raise(name, value):
    with pytest.raises(RecipeError) as caught:
        parse({**GOOD, "baseline": {name: value}})
    assert "\n" not in str(caught.value)
    assert f"baseline.{name}" in str(caught.value)


# --- where recipes come from ---


def test_unknown_recipes_name_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"unknown recipe 'deep-compresion'; did you mean 'deep-compression'\?"):
        read("deep-compresion")
    with pytest.raises(RecipeError, match=r"none\.toml: no such recipe file"):
        read(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[network\nname = 3")
    with pytest.raises(RecipeError, match=r"broken\.toml: not TOML") as caught:
        read(broken)
    assert "\n" not in str(caught.value)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[baseline]\nepochs = -1")
    with pytest.raises(RecipeError, match=r"wrong\.toml: baseline\.epochs"):
        read(wrong)


@pytest.mark.parametrize(
    ("key", "text", "look", "expected"),
    [
        ("baseline.epochs", "7", lambda r: r.baseline.epochs, 7),
        ("step.0.sparsity", "[0.1, 0.2]", lambda r: r.step[0].method.sparsity, [0.1, 0.2]),
        ("step.1.bits", "{ conv = 2 }", lambda r: r.step[1].method.bits, {"conv": 2}),
        ("step.0.train.lr", "1e-2", lambda r: r.step[0].train.lr, 0.01),
        ("network.settings.num_classes", "3", lambda r: r.network.settings, {"num_classes": 3}),
        ("budget.max_size", "5kB", lambda r: r.budget.max_size, "5kB"),
        ("title", "mine", lambda r: r.title, "mine"),
    ],
)
def test_overrides(key, text, look, expected):
    assert look(parse(GOOD, overrides={key: text})) == expected
    assert look(read(parse(GOOD), overrides={key: text})) == expected
    assert look(parse(GOOD)) != expected


@pytest.mark.parametrize(
    ("key", "text", "what"),
    [
        ("baseline.epochs", "-1", r"baseline\.epochs"),
        ("step.9.sparsity", "0.5", "'9' is no place of a list of 2"),
        ("step.x.sparsity", "0.5", "'x' is no place of a list of 2"),
        ("baseline.epochs.more", "1", "'more' lies below a plain value"),
        ("step.0.sparsity", "[0.5", "no TOML value"),
        ("step", "weight_prune", "step"),
    ],
)
def test_bad_overrides(key, text, what):
    with pytest.raises(RecipeError, match=what) as caught:
        parse(GOOD, overrides={key: text})
    assert "\n" not in str(caught.value)


def test_entry_points_are_methods(monkeypatch):
    class Entry:
        value = "other:Thing"

        def __init__(self, method):
            self.load = lambda: method

    def found(method):
        methods.available.cache_clear()
        monkeypatch.setattr(methods, "entry_points", lambda group: [Entry(method)])
        return methods.available()

    try:
        with pytest.raises(RecipeError, match="not a method: it has no revision"):
            found(type("Half", (), {"name": "half"}))
        with pytest.raises(RecipeError, match="the name 'weight_prune' is taken"):
            found(WeightPrune)
        other = type("Other", (WeightPrune,), {"name": "other_prune"})
        assert found(other)["other_prune"] is other
    finally:
        monkeypatch.undo()
        methods.available.cache_clear()
