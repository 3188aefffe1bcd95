"""Channel labels: which channels of a network go together, how to remove them, and the proof that it was done right."""

from netpress.graph.choice import choose, random_scores
from netpress.graph.coupling import couple
from netpress.graph.edit import edits, keep
from netpress.graph.explain import Row, explain
from netpress.graph.solve import Coupling, Group, Kept, Slot
from netpress.graph.verify import check, silenced_twin, smallest_input, zeroed_twin

__all__ = [
    "Coupling",
    "Group",
    "Kept",
    "Row",
    "Slot",
    "check",
    "choose",
    "couple",
    "edits",
    "explain",
    "keep",
    "random_scores",
    "silenced_twin",
    "smallest_input",
    "zeroed_twin",
]
