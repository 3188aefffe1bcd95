import numpy as np
import pytest

from netpress.codec import logistic
from netpress.rate_distortion import chosen


def kernels():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(24, 16, 3, 3))
    smooth[..., 1:] += 0.8 * smooth[..., :-1]
    return smooth * rng.gamma(1, size=(24, 1, 1, 1))


def test_without_a_price_the_nearest_are_taken():
    weights = kernels()
    assert np.array_equal(chosen(weights, 0.3, multiplier=0.0), np.rint(weights / 0.3))


def test_bits_are_traded_for_error():
    weights, before = kernels(), None
    for multiplier in (0.0, 0.1, 0.3, 1.0):
        found = chosen(weights, 0.5, multiplier=multiplier)
        assert np.abs(found - weights / 0.5).max() <= max(1.0, np.abs(weights / 0.5).max() * (multiplier > 0))
        now = len(logistic.encode(found)), float(((found - weights / 0.5) ** 2).sum())
        assert before is None or (now[0] < before[0] and now[1] > before[1])
        before = now


def test_at_low_rates_it_beats_a_larger_step():
    """Same error, fewer bytes."""
    weights = kernels()
    found = chosen(weights, 1.5, multiplier=0.15)
    y, x = found.reshape(-1).astype(float), weights.reshape(-1)
    error = ((x - y * (x @ y) / (y @ y)) ** 2).sum()
    steps = np.linspace(1.0, 2.5, 61)
    nearest = [np.rint(weights / step) for step in steps]
    errors = [((x - q.reshape(-1) * (x @ q.reshape(-1)) / (q**2).sum()) ** 2).sum() for q in nearest]
    same = max(i for i, other in enumerate(errors) if other <= error)
    assert len(logistic.encode(found)) < len(logistic.encode(nearest[same].astype(int)))


def test_what_cannot_be_coded_is_refused():
    with pytest.raises(ValueError, match="4,096 integers"):
        chosen(np.array([0.0, 1.0]), 1e-5, multiplier=0.1)
