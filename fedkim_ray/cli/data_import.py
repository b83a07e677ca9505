"""``fedkim data import``: a source into a data root, split by patient."""

import csv
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from fedkim_ray.cli.options import AsJson, require_place

if TYPE_CHECKING:
    from fedkim_ray.data.importing.request import ImportRequest
    from fedkim_ray.data.importing.run import ImportResult, Places

SHOWN = 10
"""Rejections that are listed on the terminal."""


Name = Annotated[
    str | None,
    typer.Argument(help="An importer, or `paper` for all; leave it out for a list of them."),
]
Source = Annotated[str | None, typer.Option(help="The source's folder, any fsspec URL.")]
Target = Annotated[str | None, typer.Option(help="The data root, any fsspec URL.")]
ImportName = Annotated[
    str | None,
    typer.Option(
        "--name",
        help="Name of this import in the root; of `manifest` the task's, else the importer's.",
    ),
]
SubjectsOf = Annotated[
    str | None,
    typer.Option(help="Whose patient numbers they are: imports that name the same share people."),
]
Clients = Annotated[int | None, typer.Option(help="Clients of iid and dirichlet.")]
Partition = Annotated[str | None, typer.Option(help="site, iid or dirichlet:ALPHA (by label).")]
Share = Annotated[float | None, typer.Option(help="Share of all subjects.")]
ValidShare = Annotated[float | None, typer.Option(help="Share of a client's.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the split.")]
Key = Annotated[
    Path | None,
    typer.Option(help="Key file of subject numbers; made if absent. It stays with you."),
]
MaxRejected = Annotated[str, typer.Option(help="1% or 0.01 of all examples.")]
Workers = Annotated[int | None, typer.Option(help="Processes; as many as cores.")]
Options = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", help="An option of the importer.", metavar="NAME=VALUE"),
]
RejectedList = Annotated[
    Path | None,
    typer.Option(help="Also write what was rejected, with file names, to a CSV of yours."),
]
Mapping = Annotated[
    Path | None, typer.Option(help="YAML that explains the columns of your own table.")
]
Reword = Annotated[
    bool, typer.Option("--reword", help="Ask a task's question in all of its wordings.")
]
Again = Annotated[
    bool,
    typer.Option(
        "--again", help="Import unchanged tables once more, or in place of others of this name."
    ),
]
Explain = Annotated[bool, typer.Option("--explain", help="Say what an importer reads, and how.")]
Check = Annotated[bool, typer.Option("--check", help="Only look at the layout.")]


def import_(
    name: Name = None,
    src: Source = None,
    dst: Target = None,
    import_name: ImportName = None,
    subjects_of: SubjectsOf = None,
    clients: Clients = None,
    partition: Partition = None,
    public_share: Share = None,
    test_share: Share = None,
    valid_share: ValidShare = None,
    seed: Seed = None,
    key: Key = None,
    max_rejected: MaxRejected = "1%",
    workers: Workers = None,
    options: Options = None,
    rejected_list: RejectedList = None,
    mapping: Mapping = None,
    reword: Reword = False,
    again: Again = False,
    explain: Explain = False,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Bring data into a data root: checked, split by patient, described.

    Example: fedkim data import mitbih --src mitdb --dst runs/mitbih/data --clients 3
    """
    if name is None:
        _list_importers(as_json)
    elif explain:
        _explain(name)
    elif check:
        check_one = _check_paper if name == "paper" else partial(_check, name)
        check_one(src, _options(options, mapping), as_json)
    else:
        rule = {
            "clients": clients or _usual_clients(name),
            "public_share": public_share,
            "test_share": test_share,
            "valid_share": valid_share,
            "seed": seed,
        }
        fields: dict[str, Any] = {
            "name": import_name,
            "subjects_of": subjects_of,
            "partition": partition,
            "key_path": key,
            "max_rejected": _share(max_rejected),
            "workers": workers,
            "reword": reword,
            "again": again,
        }
        require_place(rejected_list, "--rejected-list")
        _require_one(name, import_name or subjects_of)
        for each, source, chosen in _sources(name, src, _options(options, mapping)):
            request = _request(each, source, dst, rule, options=chosen, **fields)
            _import_one(request, _listing(rejected_list, name, each), as_json)


def _listing(path: Path | None, name: str, importer: str) -> Path | None:
    """Return where an importer's rejections are listed: of several, each in a file of its own."""
    several = path is not None and name != importer
    return path.with_stem(f"{path.stem}-{importer}") if path and several else path


def _require_one(name: str, given: str | None) -> None:
    """Refuse a name where several data sets would share it."""
    from fedkim_ray.data.importing.paper import NAME
    from fedkim_ray.errors import DataError

    if given and name == NAME:
        raise DataError(
            f"`{NAME}` makes several imports, and {given!r} is one name.",
            "Each is called after its importer.",
            "Leave --name and --subjects-of out, or import one data set at a time.",
        )


def _sources(
    name: str, src: str | None, options: dict[str, Any]
) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Return importer, source and options of all that is to be imported."""
    from fedkim_ray.data.importing.paper import NAME, find_downloads

    if name != NAME:
        return [(name, src, options)]
    downloads = find_downloads(_named(src), options)
    for download in downloads:
        if download.problems:
            typer.echo(f"{download.importer}: left out: {'; '.join(download.problems)}.", err=True)
    return [(d.importer, d.source, dict(d.options)) for d in downloads if not d.problems]


def _named(src: str | None) -> str:
    from fedkim_ray.errors import DataError

    if src is None:
        raise DataError(
            "No folder was named.",
            "--src is the folder that holds the paper's data sets, each in a folder of its name.",
            "See docs/importers.md.",
        )
    return src


def _usual_clients(name: str) -> int | None:
    from fedkim_ray.data.importing.paper import CLIENTS, NAME

    return CLIENTS if name == NAME else None


def _import_one(request: "ImportRequest", rejected_list: Path | None, as_json: bool) -> None:
    result = _run(request, rejected_list)
    if rejected_list and result.unchanged:
        typer.echo(f"Nothing was read, and {rejected_list} not written: use --again.", err=True)
    if as_json:
        typer.echo(result.record.model_dump_json())
    else:
        _show(request.root, result)


def _request(
    importer: str, src: str | None, dst: str | None, rule: dict[str, Any], **fields: Any
) -> "ImportRequest":
    from fedkim_ray.data.importers import find_importer
    from fedkim_ray.data.importing.request import ImportRequest
    from fedkim_ray.errors import DataError

    find_importer(importer)
    if dst is None:
        raise DataError(
            "No data root was named.",
            "--dst is the folder or URL that the data are written to.",
            f"For example: fedkim data import {importer} --src DIR --dst runs/{importer}/data.",
        )
    given = {field: value for field, value in rule.items() if value is not None}
    fields = {field: value for field, value in fields.items() if value is not None}
    return ImportRequest(importer=importer, root=dst, source=src, rule=given, **fields)


def _options(texts: list[str] | None, mapping: Path | None) -> dict[str, Any]:
    from fedkim_ray.data.manifest.explain import read_mapping
    from fedkim_ray.errors import DataError

    values: dict[str, Any] = {"mapping": read_mapping(mapping)} if mapping else {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise DataError(
                f"Option {text!r} has no '='.", "An option is name=value.", "Correct it."
            )
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise DataError(
                f"Option {text!r} cannot be read.",
                "The value is YAML: 10, word, [10, 9].",
                "Close its brackets and quotes.",
            ) from None
    return values


def _share(text: str) -> float:
    from fedkim_ray.errors import DataError

    try:
        share = float(text.rstrip("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise DataError(f"{text!r} is no share.", "It is 1% or 0.01.", "Correct --max-rejected.")
    return share


def _run(request: "ImportRequest", rejected_list: Path | None) -> "ImportResult":
    from fedkim_ray.cli.progress import new_progress
    from fedkim_ray.data.importing.run import run_import

    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task(f"importing {request.importer}", total=None, note="")
        return run_import(
            request,
            lambda done, total, note: progress.update(
                bar, completed=done, total=total or None, note=note
            ),
            partial(_write_list, rejected_list) if rejected_list else None,
        )


def _show(root: str, result: "ImportResult") -> None:
    record = result.record
    table = Table("place", "task", "examples", title=f"{record.source.name} at {root}")
    for place, tasks in record.counts.items():
        for task, number in tasks.items():
            table.add_row(place, task, str(number))
    console = Console()
    console.print(table)
    if result.unchanged:
        console.print("It was there already; nothing was done.")
    for reason, number in record.left_out.items():
        console.print(f"Left out, {reason}: {number}.")
    for feature, number in record.out_of_range.items():
        console.print(f"Impossible values of {feature}, taken as missing: {number}.")
    for reason, number in record.rejected.items():
        console.print(f"[yellow]Rejected, {reason}: {number}.[/]")
    for place, row, column, reason in result.rejected_places[:SHOWN]:
        console.print(f"  {_place(place, row, column)}: {reason}", markup=False, highlight=False)
    console.print(f"Next: fedkim data describe {root}")


def _place(place: str, row: int | None, column: str) -> str:
    parts = [place, f"row {row}" if row is not None else "", f"column {column}" if column else ""]
    return ", ".join(part for part in parts if part)


def _write_list(path: Path, places: "Places") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "row", "column", "reason"])
        writer.writerows(places)


def _check_paper(src: str | None, options: dict[str, Any], as_json: bool) -> None:
    from fedkim_ray.data.importing.paper import IMPORTERS, find_downloads

    found = {d.importer: d.problems for d in find_downloads(_named(src), options)}
    if as_json:
        typer.echo(json.dumps({"problems": found}))
    else:
        for name in IMPORTERS:
            state = "; ".join(found.get(name, ["no folder"])) or "the layout is as expected"
            typer.echo(f"{name}: {state}")
    if any(found.values()):
        raise typer.Exit(1)


def _check(name: str, src: str | None, options: dict[str, Any], as_json: bool) -> None:
    from fedkim_ray.data.importers import find_importer
    from fedkim_ray.data.importing.files import SourceFiles
    from fedkim_ray.data.importing.layout import check_layout
    from fedkim_ray.data.importing.request import ImportRequest, parse_options, source_url

    kind = find_importer(name)
    url = source_url(kind, ImportRequest(importer=name, root="", source=src))
    files = SourceFiles.at(url)
    layout = kind(files, parse_options(kind, options), Path()).layout()
    problems = check_layout(files, layout)
    if as_json:
        typer.echo(json.dumps({"problems": problems}))
    else:
        table = Table("files", "columns", "at least", title=f"{kind.title}: expected layout")
        for expected in layout:
            table.add_row(expected.pattern, ", ".join(expected.columns), str(expected.at_least))
        Console().print(table)
        typer.echo("\n".join(problems) or f"{url}: the layout is as expected")
    if problems:
        raise typer.Exit(1)


def _explain(name: str) -> None:
    import inspect

    from fedkim_ray.data.importers import find_importer
    from fedkim_ray.data.importing import paper
    from fedkim_ray.data.manifest.explain import example_mapping

    if name == paper.NAME:
        typer.echo(inspect.getdoc(paper))
        return
    kind = find_importer(name)
    if name == "manifest":
        typer.echo(example_mapping())
        return
    typer.echo(inspect.getdoc(inspect.getmodule(kind)))
    typer.echo(f"\nTasks: {', '.join(kind.tasks)}. Licence: {kind.licence}.")
    for option, field in kind.Options.model_fields.items():
        typer.echo(f"  -o {option}={field.default}")


def _list_importers(as_json: bool) -> None:
    from fedkim_ray.data.importers import find_importer, importer_names

    kinds = [find_importer(name) for name in importer_names()]
    if as_json:
        typer.echo(json.dumps({k.name: k.title for k in kinds}))
        return
    table = Table("name", "data set", "tasks", "licence")
    for kind in kinds:
        table.add_row(kind.name, kind.title, ", ".join(kind.tasks), kind.licence)
    Console().print(table)
