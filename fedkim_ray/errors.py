"""Every error this package raises on purpose.

Each says three things: what came, what was expected, and what to do next. The subclasses exist
to be caught; the text is written where the error is raised. All of them cross process
boundaries inside Ray, so the constructor hands its arguments on and the text is built in
``__str__``: pickling replays the constructor and loses nothing.
"""

from typing import ClassVar


class FedKimError(Exception):
    """Base class: catch this to catch everything the package raises.

    Args:
        came: What was found, with the offending value, as a sentence.
        expected: What would have been right, as a sentence.
        remedy: What the reader can do about it, as a sentence.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, came: str, expected: str, remedy: str) -> None:
        super().__init__(came, expected, remedy)
        self.came = came
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.came} {self.expected} {self.remedy}"


class RecipeError(FedKimError):
    """A recipe, or an override of it, cannot be used."""


class DataError(FedKimError):
    """A data root or one of its files breaks the sample-table contract."""


class RowRejectedError(DataError):
    """One example of a source cannot be used; the text holds no value of it.

    Args:
        came: What was found, without the value.
        expected: What would have been right.
        remedy: What the reader can do about it.
        reason: The code that stands in ``rejected.parquet``.
        column: Column or feature at fault, where there is one.
    """

    def __init__(
        self, came: str, expected: str, remedy: str, reason: str, column: str = ""
    ) -> None:
        super().__init__(came, expected, remedy)
        self.args = (came, expected, remedy, reason, column)  # pickling replays the constructor
        self.reason = reason
        self.column = column


class StorageError(FedKimError):
    """A published folder is absent, incomplete, altered or of another format."""


class TakenOverError(StorageError):
    """Another driver has the run by now."""


class BaseModelError(FedKimError):
    """The frozen language model cannot be found or is not the one expected."""


class ParamsMismatchError(FedKimError):
    """Parameters do not carry the names, shapes or dtypes that the model has."""


class ClientFailedError(FedKimError):
    """A client could not finish its work; the text holds no value of its data."""


class UpdateNormError(ClientFailedError):
    """A client's update is larger than the recipe allows."""


class RoundFailedError(FedKimError):
    """A round ended without enough updates to go on."""


class RunAbortedError(FedKimError):
    """Somebody ended the run with `fedkim abort`; it can be resumed."""

    exit_code: ClassVar[int] = 130


class GateShapeError(FedKimError):
    """Expert weights do not fit the batch or the number of experts."""


class TrainingDivergedError(FedKimError):
    """A loss became NaN or infinite; nothing was published from it."""


class RequestError(FedKimError):
    """A request to the served model is malformed; the text names the field."""


class SubmissionError(FedKimError):
    """A run cannot be submitted, or the cluster knows no such submission."""


class EnvironmentProblemError(FedKimError):
    """Something outside the project is missing: Ray, a package, disk or memory."""
