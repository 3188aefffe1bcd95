"""Forms: which values one tensor may take, and how they are trained and written.

    project(form, w) = decode(form, encode(form, w))

`encode` gives what is trained (floats, a table of shared values, a scale, floats and a step), `decode` the weight that
the network computes with, `symbols` the integers and side data that a file holds. Shape letters: S entries inside the
support, K table entries.
"""

from netpress.forms.carry import narrow, select, with_step
from netpress.forms.gradients import gather, gradient_share, kept, on_grid, signed
from netpress.forms.training import Params, decode, encode, holds, project, step_share
from netpress.forms.values import Affine, Form, Free, Shared, Signs, Values, inside
from netpress.forms.written import from_stored, symbols

__all__ = [
    "Affine",
    "Form",
    "Free",
    "Params",
    "Shared",
    "Signs",
    "Values",
    "decode",
    "encode",
    "from_stored",
    "gather",
    "gradient_share",
    "holds",
    "inside",
    "kept",
    "narrow",
    "on_grid",
    "project",
    "select",
    "signed",
    "step_share",
    "symbols",
    "with_step",
]
