"""Training, evaluation and gradient statistics: the only place with `backward()`."""

from netpress.train.bind import bind, bound, formed, unbind
from netpress.train.evaluate import Scores, evaluate, logits, score
from netpress.train.loop import Fitted, fit
from netpress.train.schedule import draw
from netpress.train.settings import Training
from netpress.train.task import Task

__all__ = [
    "Fitted",
    "Scores",
    "Task",
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
