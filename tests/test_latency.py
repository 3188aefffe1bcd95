"""The timer: turns, ratios, and that it sees more work as more time."""

import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netpress.errors import ModelError, RecipeError
from netpress.measure import Timing, latency, speedup
from netpress.measure.latency import slowest

X = np.zeros((1, 256), np.float32)


def model(products: int) -> bytes:
    """A chain of matrix products 256×256 whose matrix is made of the input: nothing can be folded beforehand."""
    chain = "".join(f"y{i + 1} = MatMul(y{i}, w)\n" for i in range(products))
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 256] x) => (float[256, 256] y{products})
        {{
            one = Constant<value_float = 1.0>()
            shape = Constant<value_ints = [256, 256]>()
            row = Add(x, one)
            w = Expand(row, shape)
            y0 = Identity(w)
            {chain}
        }}""").SerializeToString()


SMALL, LARGE = model(1), model(12)


def test_more_work_takes_longer_and_the_order_is_recorded():
    found = latency({"large": LARGE, "small": SMALL}, X, threads=1, rounds=7, min_round_s=0.01)
    large, small = found["large"], found["small"]
    assert list(found) == ["large", "small"]
    assert speedup(large, small).median > 2
    assert speedup(small, large).median < 0.5
    assert large.turns == tuple(range(0, 14, 2))
    assert small.turns == tuple(range(1, 14, 2))
    assert len(large.samples_ms) == len(small.samples_ms) == 7
    assert small.calls > large.calls >= 1
    assert (large.threads, large.batch) == (1, 1)
    assert large.runtime.startswith("onnxruntime 1.")


def test_a_model_against_itself_is_even():
    found = latency({"a": LARGE, "b": LARGE}, X, threads=1, rounds=9, min_round_s=0.02)
    ratio = speedup(found["a"], found["b"])
    assert 0.7 < ratio.median < 1.4
    assert ratio.q1 <= ratio.median <= ratio.q3
    assert found["a"].min_ms <= found["a"].q1_ms <= found["a"].median_ms <= found["a"].q3_ms


def test_a_file_is_taken_too(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(SMALL)
    assert latency({"file": path}, X, threads=1, min_round_s=0)["file"].median_ms > 0


def test_the_slowest_of_some_models_is_what_counts():
    both = slowest({"small": SMALL, "large": LARGE}, X, threads=1)
    assert both > min(slowest({"small": SMALL}, X, threads=1) for _ in range(3))
    with pytest.raises(ModelError, match="'small' does not run"):
        slowest({"small": SMALL}, X[:, :3], threads=1)


@given(st.lists(st.floats(0.1, 10), min_size=7, max_size=7), st.floats(0.1, 10))
def test_drift_that_hits_both_cancels(drift, ratio):
    slow = Timing(tuple(ratio * d for d in drift), tuple(range(0, 14, 2)), 1, 1, 1, "none")
    fast = Timing(tuple(drift), tuple(range(1, 14, 2)), 1, 1, 1, "none")
    found = speedup(slow, fast)
    assert found.q1 == pytest.approx(ratio)
    assert found.median == pytest.approx(ratio)
    assert found.q3 == pytest.approx(ratio)


def test_timings_of_two_runs_are_refused():
    a, b = (latency({"net": SMALL}, X, threads=1, min_round_s=0)["net"] for _ in range(2))
    with pytest.raises(ModelError, match="one run"):
        speedup(a, b)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threads": 0}, ["threads", "got 0"]),
        ({"threads": 1, "rounds": 6}, ["rounds", "at least 7", "got 6"]),
        ({"threads": 1, "warmup": -1}, ["warmup", "got -1"]),
        ({"threads": 1, "min_round_s": float("nan")}, ["min_round_s", "nan"]),
    ],
)
def test_numbers_out_of_range_are_one_line(arguments, words):
    with pytest.raises(RecipeError) as caught:
        latency({"net": SMALL}, X, **arguments)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("onnx_bytes", "x"),
    [(b"no model", X), (SMALL, X.astype(np.float64)), (SMALL, np.zeros((1, 255), np.float32))],
    ids=["no model", "wrong type", "wrong shape"],
)
def test_a_model_that_does_not_run_is_one_line(onnx_bytes, x):
    with pytest.raises(ModelError) as caught:
        latency({"mine": onnx_bytes}, x, threads=1)
    message = str(caught.value)
    assert "'mine'" in message
    assert str(x.shape) in message
    assert "\n" not in message


def test_no_model_is_refused():
    with pytest.raises(RecipeError, match="no model"):
        latency({}, X, threads=1)
