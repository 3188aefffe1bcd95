"""The preset dictionaries as a JavaScript module, written from Python's where it is needed: they exist once."""

import base64

from netpress.codec.dictionary import DICTIONARIES

_MODULE = """// Written by netpress.play.dictionaries: the preset dictionaries of the `.press` format, by version.
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
export const DICTIONARIES = {{
{rows}
}};
"""


def module() -> str:
    """The text of `dictionaries.js`, which exports `DICTIONARIES`: version -> bytes.

    >>> module().count("bytes(")
    2
    """
    rows = (f'  {number}: bytes("{base64.b64encode(raw).decode()}"),' for number, raw in sorted(DICTIONARIES.items()))
    return _MODULE.format(rows="\n".join(rows))
