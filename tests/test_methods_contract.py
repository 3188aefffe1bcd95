"""Every method x its examples x six toy networks keeps every promise of `contract.py`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import contract
import pytest
import torch
import toy_nets
from contract import one_thread  # noqa: F401
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from netpress import methods, recipe, store
from netpress.errors import ModelError, RecipeError
from netpress.forms import Shared

EXAMPLES = methods.examples()
LABELS = [f"{m.name}-{i}" for i, m in enumerate(EXAMPLES)]
PAIRS = list(itertools.product(range(len(EXAMPLES)), repeat=2))


def test_nothing_is_left_out():
    names = set(methods.available())
    assert {type(example) for example in EXAMPLES} == set(methods.available().values())
    assert {example.name for example in EXAMPLES} == names >= {"weight_prune", "weight_share"}
    assert len(toy_nets.KINDS) == 6
    assert len(contract.CHECKS) == 9
    assert len(PAIRS) == len(EXAMPLES) ** 2 >= 49
    assert set().union(*(e.gives for e in EXAMPLES)) == {"support", "shared", "signs", "affine", "rounded"}


@pytest.mark.parametrize("kind", toy_nets.KINDS)
@pytest.mark.parametrize("example", EXAMPLES, ids=LABELS)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_contract(check, example, kind):
    check(example, kind)


@pytest.mark.parametrize("name", methods.available())
def test_same_seed_same_file_with_its_graph(name, tmp_path):
    example = next(e for e in EXAMPLES if e.name == name)
    files = []
    for _ in range(2):
        store.save(contract.applied(example, "residual"), tmp_path / "a.press")
        files.append((tmp_path / "a.press").read_bytes())
    assert files[0] == files[1]
    assert files[0] == contract.file_bytes(contract.applied(example, "residual"))


@pytest.mark.parametrize("kind", toy_nets.KINDS)
def test_another_seed_gives_another_network_where_it_is_drawn(kind):
    # otherwise "same seed, same bytes" could hold because the seed is never used
    drawn = methods.WeightShare(bits=2, init="forgy")
    one, other = (drawn.apply(toy_nets.toy_candidate(kind), toy_nets.toy_context(seed=seed)) for seed in (1, 2))
    assert contract.state(one.net) != contract.state(other.net)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{LABELS[a]}+{LABELS[b]}" for a, b in PAIRS])
def test_ordered_pairs_are_kept_or_refused(first, second):
    one, two = EXAMPLES[first], EXAMPLES[second]
    steps = {"step": [{"method": m.name, **_given(m)} for m in (one, two)]}
    if not one.gives <= two.preserves:
        with pytest.raises(RecipeError, match="would break"):
            recipe.parse(steps)
        return
    assert len(recipe.parse(steps).step) == 2
    earlier = contract.trained_our_way(contract.applied(one, "plain"), "sgd", epochs=1)
    later = contract.applied(two, "plain", before=earlier)
    assert contract.forgotten(earlier, later) == []
    trained = contract.trained_our_way(later, "adamw", epochs=1)
    assert contract.forgotten(earlier, trained) == []
    assert contract.moved(later, trained, all_of_them=False)


def _given(method: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(method).items() if value is not None}


@dataclass(frozen=True)
class Melt:
    """A method that keeps nothing."""

    name: ClassVar[str] = "melt"
    revision: ClassVar[int] = 1
    gives: ClassVar[frozenset[str]] = frozenset()
    preserves: ClassVar[frozenset[str]] = frozenset()

    def expand(self):
        return [self]

    def apply(self, candidate, context):
        return candidate.but(forms={})


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.gives], ids=lambda example: example.name)
def test_an_order_that_breaks_a_form_is_refused(example, monkeypatch):
    monkeypatch.setattr(methods, "available", lambda: {example.name: type(example), "melt": Melt})
    before = {"method": example.name, **_given(example)}
    assert len(recipe.parse({"step": [{"method": "melt"}, before]}).step) == 2
    trait = min(example.gives)
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"step": [before, {"method": "melt"}]})
    text = str(caught.value)
    assert "\n" not in text
    assert "step[1] (melt)" in text
    assert f"{trait!r} form that step[0] ({example.name}) gave" in text


# --- fields: what is out of range is derived from the declarations ---


def bad_values(kind: Any) -> Iterator[Any]:
    """Values that an annotation does not allow, read off its own limits."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from beyond(arguments[0], arguments[1:])
    elif origin is Literal:
        yield "no_such_choice"
        yield 17
    elif origin in (list, tuple):
        yield from ([value] for value in bad_values(arguments[0]))
    elif origin is dict:
        yield from ({"default": value} for value in bad_values(arguments[1]))
    elif origin is Union or type(kind).__name__ == "UnionType":
        found = (value for argument in arguments for value in bad_values(argument))
        yield from (value for value in found if not allowed(kind, value))  # bad for one may be good for another
    elif kind is bool:
        yield "perhaps"
    elif kind is str:
        yield 17


def allowed(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def beyond(kind: Any, notes: tuple[Any, ...]) -> Iterator[Any]:
    """Values just outside the limits of an annotated type."""
    for limit in (limit for a in notes for limit in (a.metadata if isinstance(a, FieldInfo) else [a])):
        for name, shift in (("ge", -1), ("gt", 0), ("lt", 0), ("le", 1)):
            if hasattr(limit, name):
                yield getattr(limit, name) + shift
        if hasattr(limit, "min_length"):
            yield "" if kind is str else []
    yield float("nan")
    if kind is not str:
        yield "many"


BAD = [
    (kind, field.name, value)
    for kind in methods.available().values()
    for field in fields(kind)
    for value in bad_values(get_type_hints(kind, include_extras=True)[field.name])
]


def test_every_field_has_bad_values():
    for kind in methods.available().values():
        assert {name for k, name, _ in BAD if k is kind} == {field.name for field in fields(kind)}
    assert len(BAD) > 40


@pytest.mark.parametrize(("kind", "field", "value"), BAD, ids=[f"{k.name}.{f}={v}" for k, f, v in BAD])
def test_out_of_range_fields_raise(kind, field, value):
    base = next(_given(example) for example in EXAMPLES if type(example) is kind)
    with pytest.raises(ValidationError) as refused:
        kind(**{**base, field: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {field}
    with pytest.raises(RecipeError) as caught:
        recipe.parse({"step": [{"method": kind.name, **base, field: value}]})
    text = str(caught.value)
    assert "\n" not in text
    assert f"step[0] ({kind.name}).{field}" in text


@pytest.mark.parametrize("kind", methods.available().values(), ids=lambda kind: kind.name)
def test_unknown_fields_raise(kind):
    base = next(_given(example) for example in EXAMPLES if type(example) is kind)
    near = fields(kind)[0].name
    with pytest.raises(ValidationError):
        kind(**base, **{near + "s": 1})
    with pytest.raises(RecipeError, match=rf"\.{near}s: unknown key; did you mean '{near}'\?"):
        recipe.parse({"step": [{"method": kind.name, **base, near + "s": 1}]})


@pytest.mark.parametrize("example", EXAMPLES, ids=LABELS)
def test_weights_that_are_not_finite_are_refused(example):
    candidate = toy_nets.toy_candidate("plain")
    with torch.no_grad():
        candidate.net.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"conv2\.weight holds NaN"):
        contract.applied(example, "plain", before=candidate)


def test_a_table_that_names_no_layer_is_refused():
    for method in (methods.WeightPrune(sparsity={"conv9": 0.5}), methods.WeightShare(bits={"conv9": 2})):
        with pytest.raises(RecipeError, match=r"'conv9' names no layer; expected .* conv1, conv2, fc1, fc2"):
            contract.applied(method, "plain")


def test_a_list_must_be_expanded():
    method = methods.WeightPrune(sparsity=[0.5, 0.9])
    with pytest.raises(RecipeError, match="apply each of expand"):
        method.apply(toy_nets.toy_candidate("plain"), toy_nets.toy_context())
    assert int(contract.applied(method, "plain").forms["fc1.weight"].support.sum()) == 384 - round(0.9 * 384)


def test_weights_behind_a_parametrization_are_refused():
    for wrap in (torch.nn.utils.parametrizations.weight_norm, torch.nn.utils.spectral_norm):
        candidate = toy_nets.toy_candidate("plain")
        wrap(candidate.net.conv2)
        for method in EXAMPLES:
            with pytest.raises(ModelError, match=r"conv2\.weight"):
                method.apply(candidate, toy_nets.toy_context())


def test_sharing_never_uses_more_values_than_there_are():
    shared = contract.applied(methods.WeightShare(bits=12), "plain")
    for form in shared.forms.values():
        assert isinstance(form.values, Shared)
        assert form.values.size == len(form.values.index)
