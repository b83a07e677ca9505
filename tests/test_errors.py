"""Errors cross process boundaries inside Ray."""

import pickle

import pytest

from fedkim_ray import errors
from fedkim_ray.errors import FedKimError, RowRejectedError, RunAbortedError

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, FedKimError)]


FURTHER = {RowRejectedError: ("too_few", "beats")}
"""What an error's constructor takes beside the three sentences."""


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_pickling(kind: type[FedKimError]) -> None:
    error = kind("3 came.", "4 were expected.", "Bring one more.", *FURTHER.get(kind, ()))
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert type(copy) is kind
    assert str(copy) == "3 came. 4 were expected. Bring one more."
    assert (copy.came, copy.expected, copy.remedy) == (error.came, error.expected, error.remedy)


def test_one_class_catches_them_all() -> None:
    assert len(CLASSES) > 10
    refusals = [kind for kind in CLASSES if kind is not RunAbortedError]  # a person's own wish
    assert all(kind.exit_code == 2 for kind in refusals)
