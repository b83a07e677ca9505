"""What a person sees of a run's events."""

import io

import pytest
from rich.console import Console

from fedkim_ray.cli.progress import RunProgress


@pytest.mark.parametrize("event", ["client_failed", "client_absent"])
def test_a_clients_own_words_are_no_markup(event: str) -> None:
    console = Console(file=io.StringIO(), width=80)
    RunProgress(console)({"event": event, "client": "a", "message": "[red]x[/red] [/x]"})
    assert "[red]x[/red] [/x]" in console.file.getvalue()  # type: ignore[attr-defined]
