"""What a network costs: counted (`cost`) and timed (`latency`)."""

from netpress.measure.cost import Cost, LayerCost, cost
from netpress.measure.latency import Speedup, Timing, latency, speedup

__all__ = ["Cost", "LayerCost", "Speedup", "Timing", "cost", "latency", "speedup"]
