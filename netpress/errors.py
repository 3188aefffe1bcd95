"""The errors a user can meet. The command line turns each into one line and an exit code."""


class NetpressError(Exception):
    """Common root: something the user can mend, said in one line (where, expected, got, what to do)."""

    exit_code = 2
    said_by_launcher = False  # where several processes were started for the user, their starter says it once


class RecipeError(NetpressError, ValueError):
    """A recipe, a method's field or an order of methods is wrong."""


class ModelError(NetpressError):
    """A network is unknown, cannot be built, or broke (for instance: NaN in its weights)."""


class DataError(NetpressError):
    """A data set is missing, damaged, or does not fit the network."""


class FileError(NetpressError):
    """A file is damaged, hostile, or from a newer version."""


class BudgetError(NetpressError):
    """The work went well, but a budget is missed or out of reach."""

    exit_code = 1
