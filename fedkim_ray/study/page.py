"""A study as files for people: a page, Markdown tables and the figure as SVG and PNG."""

from pathlib import Path

from fedkim_ray.drawing import png, svg
from fedkim_ray.evaluation.page import render
from fedkim_ray.evaluation.report import NAMES
from fedkim_ray.evaluation.results import STANDINGS
from fedkim_ray.storage import Folder
from fedkim_ray.study.figures import study_bars
from fedkim_ray.study.results import StudyReport, signed
from fedkim_ray.study.tables import markdown_tables

PAGE = "comparison.html"


def write_pages(report: StudyReport, folder: Folder) -> str:
    """Write page, tables and figure into the study's folder; return the page's URL."""
    bars = study_bars(report)
    template = Path(__file__).with_name(PAGE)
    page = render(
        template, report=report, bars=bars, names=NAMES, signed=signed, standings=STANDINGS
    )
    folder.write_bytes(PAGE, page.encode())
    folder.write_bytes("comparison.md", markdown_tables(report).encode())
    folder.write_bytes("comparison.svg", svg(bars).encode())
    folder.write_bytes("comparison.png", png(bars))
    return folder.full(PAGE)
