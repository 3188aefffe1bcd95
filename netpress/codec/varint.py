"""Lengths inside the file: little-endian base 128, low seven bits first, the shortest form only."""

from netpress.errors import FileError

MAX_VARINT_BYTES = 9


def write_varint(value: int) -> bytes:
    """Write a number >= 0.

    >>> write_varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number at byte `at`.

    >>> read_varint(b"\\xac\\x02", 0)
    (300, 2)

    Returns:
        The number and the byte after it.

    Raises:
        FileError: the data ends, or the number is not in its shortest form of at most 9 bytes.
    """
    value = 0
    for index, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if index and not byte:
                raise FileError(f"byte {at}: a length is not written in its shortest form")
            return value, at + index + 1
    raise FileError(f"byte {at}: a length is cut or longer than {MAX_VARINT_BYTES} bytes")
