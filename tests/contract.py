"""What every method promises, as named checks: the contract test and the saboteur test call the same functions.

Each check takes a method and the name of a toy network and raises AssertionError if the method breaks that promise;
a method that breaks one promise must pass all other checks.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from toy_nets import toy_candidate, toy_context, toy_data

from netpress import onnx_graph, store
from netpress.candidate import Candidate
from netpress.codec.header import Arch
from netpress.data.batches import batches
from netpress.forms import Affine, Form, Free, Shared, Signs, holds, project
from netpress.methods.targets import choose, targets
from netpress.rounding import grids
from netpress.runtime import Session
from netpress.train import Training, bound, fit, formed, logits

Check = Callable[[Any, str], None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads only wait for each other. Test files import this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def state(net: nn.Module) -> dict[str, bytes]:
    return {name: raw(tensor) for name, tensor in net.state_dict().items()}


def form_facts(form: Form) -> tuple[Any, ...]:
    support = None if form.support is None else raw(form.support)
    match form.values:
        case Free():
            return support, "free"
        case Shared(index=index, size=size, grid=grid):
            return support, "shared", raw(index), size, None if grid is None else _grid_facts(grid)
        case Signs(pattern=pattern, axes=axes, trained=trained):
            return support, "signs", raw(pattern), tuple(pattern.shape), axes, trained
        case Affine() as grid:
            return support, *_grid_facts(grid)


def _grid_facts(grid: Affine) -> tuple[Any, ...]:
    return "affine", raw(grid.step), tuple(grid.step.shape), grid.bits, grid.zero_point, grid.trained


def facts(candidate: Candidate) -> tuple[Any, ...]:
    """Everything about a candidate that a method could change."""
    net = candidate.net
    return (
        state(net),
        str(net),
        [(path, type(module), module.training) for path, module in net.named_modules()],
        [(name, id(p), p.requires_grad, tuple(p.shape), p.stride()) for name, p in net.named_parameters()],
        {name: form_facts(form) for name, form in candidate.forms.items()},
        candidate.arch,
        candidate.inputs,
        candidate.classes,
        candidate.history,
    )


def applied(method: Any, kind: str, *, before: Candidate | None = None) -> Candidate:
    """The toy network after all rounds of the method."""
    candidate = before or toy_candidate(kind)
    for number, part in enumerate(method.expand(), 1):
        candidate = part.apply(candidate, toy_context(step=number))
    return candidate


def clean(candidate: Candidate) -> Candidate:
    """Its forms made to hold: so that a check looks at one thing only."""
    return candidate.but(net=formed(candidate.net, candidate.forms))


def file_bytes(candidate: Candidate, *, graph: bool = True) -> bytes:
    """The `.press` file; without a graph it is fifty times faster to write.

    The graph of a structure is made once: `test_onnx_graph.py` proves that it does not depend on values.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.press"
        with mock.patch.object(store, "_graph", _known_graph if graph else _no_graph):
            assert store.save(candidate, path).note == ""
        return path.read_bytes()


def _no_graph(*_: Any) -> tuple[bytes, list[Any], str]:
    return b"", [], ""


_GRAPHS: dict[Any, tuple[bytes, list[Any], str]] = {}


def _known_graph(candidate: Candidate, *names: Any, _make: Any = store._graph) -> tuple[bytes, list[Any], str]:
    shapes = tuple((name, tuple(t.shape)) for name, t in candidate.net.state_dict().items())
    rounded = (candidate.arch.edits, tuple(store._integers(candidate).items()))  # what goes in as integers
    key = (str(candidate.net), shapes, rounded, onnx_graph._is_default)  # the last: what a saboteur changes
    if key not in _GRAPHS:
        _GRAPHS[key] = _make(candidate, *names)
    return _GRAPHS[key]


def trained_our_way(candidate: Candidate, optimizer: str, *, lr: float = 0.02, epochs: int = 2) -> Candidate:
    settings = Training(epochs=epochs, lr=lr, optimizer=optimizer, weight_decay=0.1, batch=32)
    return fit(candidate, settings, toy_context()).candidate


def trained_their_way(candidate: Candidate, optimizer: str) -> Candidate:
    """A loop that knows nothing of forms, with decay on everything."""
    candidate = candidate.but(net=deepcopy(candidate.net))
    data = toy_data()
    with bound(candidate) as net:
        net.train()
        steps: torch.optim.Optimizer = (
            torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.1)
            if optimizer == "adamw"
            else torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        )
        for x, y in batches(data.train, size=32, mean=data.mean, std=data.std, seed=1):
            steps.zero_grad()
            F.cross_entropy(net(x), y).backward()
            steps.step()
    return candidate


def moved(before: Candidate, after: Candidate, *, all_of_them: bool = True) -> bool:
    """Whether training changed every formed tensor but the frozen ones: otherwise a check of what it keeps is empty.

    Two steps in a row may leave a layer so few weights that those before it get no gradient: then some will do.
    """
    changed = {n: raw(before.net.get_parameter(n)) != raw(after.net.get_parameter(n)) for n in before.forms}
    # a few updates need not take a coarse grid's weights to another level: there, some tensor must have moved
    coarse = {n for n, form in before.forms.items() if form.step is not None}
    fine = [changed[n] is _trains(form) for n, form in before.forms.items() if n not in coarse]
    if not all_of_them:
        return not before.forms or any(fine) or any(changed[n] for n in coarse)
    return all(fine) and (not coarse or any(changed[n] for n in coarse))


def _trains(form: Form) -> bool:
    """Signs with a frozen scale are frozen whole."""
    return not isinstance(form.values, Signs) or form.values.trained


def broken(candidate: Candidate, forms: Mapping[str, Form] | None = None) -> list[str]:
    """Names of tensors that do not hold their form to the bit."""
    forms = candidate.forms if forms is None else forms
    return [name for name, form in forms.items() if not holds(form, candidate.net.get_parameter(name))]


# --- the checks ---


def argument_untouched(method: Any, kind: str) -> None:
    candidate = toy_candidate(kind)
    earlier = facts(candidate)
    applied(method, kind, before=candidate)
    assert facts(candidate) == earlier, "apply changed its argument"


def same_seed_same_bytes(method: Any, kind: str) -> None:
    files = []
    for noise in (1, 2):
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002  (the very generator that a method must not use)
        torch.manual_seed(noise)
        files.append(file_bytes(clean(applied(method, kind)), graph=False))
    assert files[0] == files[1], "the same seed gave other bytes"


def forms_hold(method: Any, kind: str) -> None:
    candidate = applied(method, kind)
    assert candidate.forms or not method.gives, "nothing was compressed"
    assert not broken(candidate)
    for name, form in candidate.forms.items():
        w = candidate.net.get_parameter(name)
        if form.support is not None:
            outside = w.detach()[~form.support]
            assert raw(outside) == bytes(4 * outside.numel()), "not +0.0 outside the support"
        if isinstance(form.values, Shared):
            assert torch.bincount(form.values.index, minlength=form.values.size).min() > 0, "a place nobody uses"


def forms_survive_training(method: Any, kind: str) -> None:
    start = clean(applied(method, kind))
    for train in (trained_our_way, trained_their_way):
        for optimizer in ("adamw", "sgd"):
            end = train(start, optimizer)
            assert not broken(end), (train.__name__, optimizer, broken(end))
            assert moved(start, end), (train.__name__, optimizer)
            assert list(end.net.state_dict()) == list(start.net.state_dict())


def promised_size(method: Any, kind: str) -> None:
    before = toy_candidate(kind)
    after = applied(method, kind, before=before)
    last = method.expand()[-1]
    missed = [what for what, reached in _promises(last, before, after) if not reached]
    assert not missed, missed


def _promises(method: Any, before: Candidate, after: Candidate) -> Iterator[tuple[str, bool]]:
    sparsity, bits = getattr(method, "sparsity", None), getattr(method, "bits", None)
    names = {t.name: t for t in targets(before.net)}
    zeros = {n: 0 if n not in after.forms else _zeros(after.forms[n]) for n in names}
    sizes = {n: before.net.get_parameter(n).numel() for n in names}
    yield "every trait it gives is there", method.gives <= after.traits
    if sparsity is not None and getattr(method, "scope", "layer") == "global":
        yield "sparsity of all layers together", sum(zeros.values()) == round(sparsity * sum(sizes.values()))
    elif sparsity is not None:
        for name, target in names.items():
            asked = choose(sparsity, target)
            expected = 0 if asked is None else min(round(asked * sizes[name]), sizes[name] - 1)
            yield f"sparsity of {name}", zeros[name] == expected
    if bits is not None:
        for name, target in names.items():
            asked = choose(bits, target)
            if asked is not None:
                yield f"values of {name}", _few_values(after.forms[name], asked)


def _few_values(form: Form, bits: int) -> bool:
    match form.values:
        case Shared(size=size):
            return size <= 2**bits
        case Affine(bits=held):
            return held <= bits
    return False


def _zeros(form: Form) -> int:
    return 0 if form.support is None else int((~form.support).sum())


def only_declared_traits(method: Any, kind: str) -> None:
    assert applied(method, kind).traits <= method.gives, "a form that the method does not declare"


def packs_bit_exact(method: Any, kind: str) -> None:
    candidate = clean(applied(method, kind))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.press"
        path.write_bytes(file_bytes(candidate, graph=False))
        back = store.load(path, into=toy_candidate(kind, seed=9).net)
    counters = {n for n in state(candidate.net) if n.endswith("num_batches_tracked")}
    mine, theirs = state(candidate.net), state(back.net)
    assert {n for n in mine if mine[n] != theirs[n]} <= counters, "a tensor came back otherwise"
    assert str(back.net) == str(candidate.net), "the file does not rebuild the network"
    assert {n: form_facts(f) for n, f in back.forms.items()} == {n: form_facts(f) for n, f in candidate.forms.items()}
    assert (back.arch, back.inputs, back.classes) == (_jsonlike(candidate.arch), candidate.inputs, candidate.classes)


def _jsonlike(arch: Arch) -> Arch:
    return Arch(arch.source, arch.name, dict(arch.settings), arch.edits)


def runtime_agrees(method: Any, kind: str) -> None:
    candidate = clean(applied(method, kind))
    test = toy_data().test
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.press"
        path.write_bytes(file_bytes(candidate))
        answers = Session(path, threads=1).run(test.images.numpy())
    expected = logits(candidate.net, test, candidate.inputs).numpy()
    if "rounded" in candidate.traits:  # where a rounding error crosses the middle of two levels, an output moves
        steps = np.abs(answers - expected) / [*grids(candidate.net).values()][-1].scale.item()
        assert steps.max() < 8.5, "more than a few levels"
        assert np.median(steps) < 0.5, "most outputs differ"
        assert (answers.argmax(1) == expected.argmax(1)).mean() >= 0.97
        return
    assert np.abs(answers - expected).max() <= 1e-4 * max(1.0, np.abs(expected).max())


def keeps_what_it_preserves(method: Any, kind: str) -> None:
    for trait in sorted(method.preserves):
        earlier = _with_trait(toy_candidate(kind), trait)
        lost = forgotten(earlier, clean(applied(method, kind, before=earlier)))
        assert not lost, f"{trait}: {lost}"


def forgotten(earlier: Candidate, later: Candidate) -> list[str]:
    """What the forms of `earlier` promised and those of `later` do not keep."""
    lost = []
    for name, form in earlier.forms.items():
        own = _moved(name, later.net)
        now, w = later.forms.get(own, Form()), later.net.get_parameter(own).detach()
        if any(record.method == "sort_channels" for record in later.history):
            # entries change places with their channels: as many as before, of the same kind
            if form.values.name != now.values.name or (form.support is not None) != (now.support is not None):
                lost.append(f"{name}: another form")
            elif form.support is not None and now.support is not None and now.support.sum() > form.support.sum():
                lost.append(f"{name}: the support grew")
            continue
        if w.shape != earlier.net.get_parameter(name).shape:
            lost += _forgotten_by_surgery(name, (form, now), earlier.net.get_parameter(name).detach(), w)
            continue
        if form.support is not None and (now.support is None or bool((now.support & ~form.support).any())):
            lost.append(f"{name}: the support grew")
        if form.support is not None and raw(w[~form.support]) != bytes(4 * int((~form.support).sum())):
            lost.append(f"{name}: not zero outside the support")
        if isinstance(form.values, Shared) and not (
            isinstance(now.values, Shared) and now.values.size <= form.values.size
        ):
            lost.append(f"{name}: no longer shared")
        lost += [f"{name}: {what}" for what in _forgotten_integers(form, now)]
    return lost + [f"{name}: does not hold" for name in broken(later)]


def _moved(name: str, net: nn.Module) -> str:
    """What a tensor is called now: a layer that reads chosen channels has them chosen before it, at its old place."""
    path, _, leaf = name.rpartition(".")
    names = {n for n, _ in net.named_parameters()}
    return next(n for n in (name, f"{path}.layer.{leaf}", f"{path}.conv.{leaf}") if n in names)


def _forgotten_integers(form: Form, now: Form) -> Iterator[str]:
    """What a tensor of the same shape no longer keeps of its signs or its grid; a step may change."""
    match form.values, now.values:
        case Signs() as was, Signs() as is_:
            support = torch.ones_like(was.pattern) if now.support is None else now.support
            if not torch.equal(was.pattern & support, is_.pattern) or was.axes != is_.axes:
                yield "other signs"
        case Signs(), _:
            yield "no longer signs"
        case Affine() as was, Affine() as is_:
            if (is_.bits, is_.zero_point) != (was.bits, was.zero_point):
                yield "another grid"
        case Affine(), _:
            yield "no longer on a grid"
        case Shared(grid=Affine()), Shared(grid=None):
            yield "its table is no longer on a grid"


def _forgotten_by_surgery(name: str, forms: tuple[Form, Form], before: Tensor, w: Tensor) -> list[str]:
    """The same of a tensor that has lost channels: of the entries that stay, no zero came to life."""
    form, now = forms
    lost = []
    if form.support is not None:
        if now.support is None or now.support.shape != w.shape:
            lost.append(f"{name}: its support was lost")
        elif int(now.support.sum()) > int(form.support.sum()):
            lost.append(f"{name}: the support grew")
    if isinstance(form.values, Shared) and isinstance(now.values, Shared) and now.values.size > form.values.size:
        lost.append(f"{name}: more shared values than before")
    if isinstance(form.values, Shared) and isinstance(now.values, Free) and w.count_nonzero():
        lost.append(f"{name}: no longer shared")
    if isinstance(form.values, Signs | Affine) and type(now.values) is not type(form.values):
        lost.append(f"{name}: no longer {form.values.name}")
    assert w.numel() < before.numel(), name
    return lost


def _with_trait(candidate: Candidate, trait: str) -> Candidate:
    rng = torch.Generator().manual_seed(11)
    forms = {}
    for target in targets(candidate.net):
        w = candidate.net.get_parameter(target.name).detach()
        if trait == "support":
            support = torch.rand(w.shape, generator=rng) < 0.7
            support.view(-1)[0] = True
            forms[target.name] = Form(support=support)
        elif trait == "shared":
            size = min(4, w.numel())
            index = w.flatten().argsort().argsort() * size // w.numel()  # quarters of the distribution
            forms[target.name] = Form(values=Shared(index=index, size=size))
        elif trait == "signs":
            forms[target.name] = Form(values=Signs.of(w, axes=(0, 1) if w.ndim > 2 else (0,)))
        elif trait == "affine":
            step = w.abs().flatten(1).amax(1).view(-1, *[1] * (w.ndim - 1)) / 127
            forms[target.name] = Form(values=Affine.symmetric(step, 8))
        else:
            raise AssertionError(f"teach the contract to make a candidate with the trait {trait!r}")
    net = deepcopy(candidate.net)
    with torch.no_grad():
        for name, form in forms.items():
            net.get_parameter(name).copy_(project(form, net.get_parameter(name)))
    return candidate.but(net=net, forms=forms)


CHECKS: tuple[Check, ...] = (
    argument_untouched,
    same_seed_same_bytes,
    forms_hold,
    forms_survive_training,
    promised_size,
    only_declared_traits,
    packs_bit_exact,
    runtime_agrees,
    keeps_what_it_preserves,
)
