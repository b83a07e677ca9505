"""Write docs/tree.md: every module with the first sentence of its docstring.

Run it (`make docs`) after adding, moving or renaming a module; a test holds the page against it.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("fedkim_ray", "serve", "benchmarks")
PAGE = ROOT / "docs/tree.md"


def tree() -> str:
    """Return the page."""
    parts = ["# What is where\n\nWritten by `make docs` from the modules' own first lines.\n"]
    for package in PACKAGES:
        folders = sorted({file.parent for file in (ROOT / package).rglob("*.py")})
        parts += [section for folder in folders if (section := _section(folder))]
    return "\n".join(parts)


def _section(folder: Path) -> str:
    """Return one folder's modules, empty where none says what it is for."""
    rows = [(file.name, _first_line(file)) for file in sorted(folder.glob("*.py"))]
    told = [f"    {name:<24} {line}" for name, line in rows if line]
    return "\n".join([f"## {folder.relative_to(ROOT)}/\n", *told, ""]) if told else ""


def _first_line(file: Path) -> str:
    """Return a module's docstring up to its first blank line or full stop."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")


if __name__ == "__main__":
    PAGE.write_text(tree())
