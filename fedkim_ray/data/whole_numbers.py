"""One writing of the numbers that say whose a row is: ``17.0`` of one export, ``17`` of another."""


def whole_number(text: str) -> str:
    """Return ``15709.0`` as ``15709``; pandas ships columns with gaps so."""
    head, _, tail = text.partition(".")
    return head if head.isdigit() and not tail.strip("0") else text
