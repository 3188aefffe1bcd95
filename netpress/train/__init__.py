"""Training, evaluation and gradient statistics: the only place with `backward()`."""

from netpress.train.bind import bind, bound, formed, unbind
from netpress.train.evaluate import Scores, evaluate, logits, score
from netpress.train.loop import Fitted, draw, fit
from netpress.train.settings import Training

__all__ = [
    "Fitted",
    "Scores",
    "Training",
    "bind",
    "bound",
    "draw",
    "evaluate",
    "fit",
    "formed",
    "logits",
    "score",
    "unbind",
]
