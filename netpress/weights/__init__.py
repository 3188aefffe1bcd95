"""Trained weights from other programs' files and downloads; never code.

`load_weights` fills a network from one file, `open_weights` from a file or by the word `pretrained`, and says what is
known about the weights: the normalisation they want, their data set, their stated accuracy.
"""

from netpress.weights.known import Known, recognise
from netpress.weights.load import load_weights
from netpress.weights.pretrained import PRETRAINED, Opened, open_weights, suited

__all__ = ["PRETRAINED", "Known", "Opened", "load_weights", "open_weights", "recognise", "suited"]
