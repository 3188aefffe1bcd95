"""Range checks of settings: one line each, with what is allowed."""

from netpress.errors import ModelError


def check_count(name: str, value: object, *, most: int = 65_536) -> None:
    """Refuse a setting that is no integer of 1 to `most`.

    Args:
        name: the setting, for the message.
        value: what the user gave.
        most: largest value that makes sense; bounds what a hostile file can make us allocate.

    Raises:
        ModelError: the value is out of range or of another type.

    >>> check_count("num_classes", 10)
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ModelError(f"zoo: setting {name} must be an integer from 1 to {most}, got {value!r}")


def check_counts(name: str, values: object) -> tuple[int, ...]:
    """Return a list of positive integers as a tuple, or refuse it.

    Raises:
        ModelError: no list or tuple, or an entry is out of range.

    >>> check_counts("hidden", [300, 100])
    (300, 100)
    """
    if not isinstance(values, list | tuple):
        raise ModelError(f"zoo: setting {name} must be a list of integers, got {values!r}")
    for value in values:
        check_count(name, value)
    return tuple(values)


def check_image(*, num_classes: object, in_channels: object, size: object = 1, dropout: object = 0.0) -> None:
    """Refuse image and classifier settings that are out of range.

    Args:
        num_classes: outputs of the classifier.
        in_channels: channels of the image.
        size: height and width of the image, pixels.
        dropout: probability of zeroing, 0 <= dropout < 1.

    Raises:
        ModelError: a value is out of range or of another type.

    >>> check_image(num_classes=10, in_channels=1, size=28, dropout=0.1)
    """
    check_count("num_classes", num_classes)
    check_count("in_channels", in_channels)
    check_count("size", size, most=4096)
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ModelError(f"zoo: setting dropout must be a number from 0 up to below 1, got {dropout!r}")


def check_number(name: str, value: object, *, low: float, high: float) -> None:
    """Refuse a setting that is no number from `low` to `high`, both included.

    Raises:
        ModelError: the value is out of range or of another type.

    >>> check_number("width", 0.5, low=0.1, high=2.0)
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ModelError(f"zoo: setting {name} must be a number from {low:g} to {high:g}, got {value!r}")


def check_choice(name: str, value: object, options: tuple[object, ...]) -> None:
    """Refuse a setting that is none of a few values.

    Raises:
        ModelError: the value is another one.

    >>> check_choice("norm", "batch", ("none", "batch"))
    """
    if value not in options:
        raise ModelError(f"zoo: setting {name} must be one of {', '.join(map(repr, options))}, got {value!r}")
