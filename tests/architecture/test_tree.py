"""docs/tree.md names every module as it is now."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs/make_tree.py"


def test_the_page_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("make_tree", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text() == script.tree(), "run `make docs`"
