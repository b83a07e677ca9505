"""HTML pages: self-contained, in the project's one style."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from fedkim_ray.drawing import svg
from fedkim_ray.evaluation.bootstrap import Estimate

SHARED = Path(__file__).parent
"""Where ``_style.html`` lies, which every page includes."""


def render(template: Path, **values: Any) -> str:
    """Fill a template; figures become inline SVG, and a name that it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    environment.filters["interval"] = interval
    environment.filters["inline"] = inline
    return environment.get_template(template.name).render(**values)


def interval(e: Estimate) -> str:
    """Return the interval alone, empty where there is none."""
    return "" if e.low is None or e.high is None else f"[{e.low:.3f}, {e.high:.3f}]"


def inline(figure: Figure | None) -> Markup:
    """Return a figure as an SVG element, empty where there is none."""
    return Markup("" if figure is None else svg(figure))
