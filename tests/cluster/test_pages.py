"""The operator's pages name commands, options and files that are there."""

import re
import shlex
from typing import Any

import pytest
import typer.main

from fedkim_ray.cli.main import app
from tests.cluster.manifests import ROOT

PAGES = ("docs/operations.md", "docs/security.md", "cluster/README.md", "cluster/kuberay/README.md")
TEXT = {page: (ROOT / page).read_text() for page in PAGES}
COMMAND = re.compile(r"(?<!-n )\bfedkim (?:[a-z]+)\b[^`#|&)]*")


def commands(page: str) -> list[str]:
    """Return the fedkim commands of a page's code, continued lines joined."""
    text = TEXT[page].replace("\\\n", " ")
    code = re.findall(r"^    (.*)$", text, re.MULTILINE) + re.findall(r"`(fedkim [^`]+)`", text)
    return [match for line in code for match in COMMAND.findall(line)]


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words lead to, and what is left of them."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES[:2])
def test_the_commands_of_a_page_are_there_with_their_options(page: str) -> None:
    found = commands(page)
    assert found
    for line in found:
        command, rest = resolve(shlex.split(line)[1:])
        known = {option for parameter in command.params for option in parameter.opts}
        named = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert named <= known, line


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_a_page_names_are_there(page: str) -> None:
    named = re.findall(r"`((?:tests|cluster|docs|benchmarks|serve)/[\w./-]+\.\w+)`", TEXT[page])
    missing = [path for path in named if not (ROOT / path).exists()]
    assert missing == []


def test_every_command_of_a_submitted_run_is_on_the_page() -> None:
    job, _ = resolve(["job"])
    shown = {resolve(shlex.split(line)[1:])[0].name for line in commands("docs/operations.md")}
    assert set(job.commands) <= shown
