"""Layers made of other layers: low-rank factors and cheaper kinds, their structure, and the weights that fit best."""

from netpress.factor.structure import CHILDREN, Rebuilt, Refused, rebuilt, refusal, structure

__all__ = ["CHILDREN", "Rebuilt", "Refused", "rebuilt", "refusal", "structure"]
