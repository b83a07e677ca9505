"""Three users' nodes: each hospital reads its own data alone; one is lost, and comes back."""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from .site_rounds import ROUND_S
from .sites import APART, BIN, SERVER, Sites, three_sites

pytestmark = pytest.mark.ray
PINS = "federation.client_selector={north: {site: north}, south: {site: south}}"


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    folder = Path(tempfile.mkdtemp(prefix="fk"))
    folder.chmod(0o755)
    with three_sites(folder) as sites:
        yield sites


def wait_until_said(word: str, process: Popen[bytes], sites: Sites) -> None:
    deadline = time.monotonic() + 150.0
    while word not in sites.said(SERVER).splitlines():
        assert process.poll() is None, sites.said(SERVER)
        assert time.monotonic() < deadline, f"no {word!r}: {sites.said(SERVER)}"
        time.sleep(0.1)


def test_the_doctor_finds_each_client_where_its_label_is(sites: Sites) -> None:
    command = [BIN / "fedkim", "doctor", "tiny", "--json", "--out", sites.folder / SERVER / "run"]
    command += ["--set", f"data.root={sites.data}", "--set", PINS]
    examined = sites.popen(SERVER, command)
    assert examined.wait(150) == 0, sites.said(SERVER)
    found = json.loads(sites.said(SERVER).splitlines()[-1])
    by_client = {f["where"].split()[0]: f["level"] for f in found if f["check"] == "storage"}
    assert by_client == {"north": "ok", "south": "ok"}
    assert sum(f["check"] == "clock" for f in found) == 3  # one a node
    assert [f["level"] for f in found if f["check"] == "authentication"] == ["ok"]
    # The server's folder is its own; injection may run on its node, so clients' need not write it.
    closed = [f["level"] for f in found if f["check"] == "run folder"]
    assert closed == (["warn", "warn"] if APART else [])
    assert not (sites.folder / SERVER / "run").exists()  # left as it was
    # Of three users each client's alone can read its data, so both were found where they are to be.
    private = [f["level"] for f in found if f["check"] == "privacy"]
    assert private == (["ok", "ok"] if APART else ["warn", "warn"])


def test_injection_runs_where_the_recipe_lets_it(sites: Sites) -> None:
    script = Path(__file__).with_name("site_injection.py")
    driver = sites.popen(SERVER, [sys.executable, script, sites.folder / SERVER])
    assert driver.wait(150) == 0, sites.said(SERVER)
    assert json.loads(sites.said(SERVER).splitlines()[-1]) == ["south", "none"]


def test_a_lost_node_costs_its_client_the_round_and_no_more(sites: Sites) -> None:
    rounds = Path(__file__).with_name("site_rounds.py")
    server = sites.popen(SERVER, [sys.executable, rounds, sites.data, sites.folder / SERVER])
    wait_until_said("round_started", server, sites)
    time.sleep(1.0)  # south is at work
    sites.lose("south")
    wait_until_said("lost", server, sites)
    sites.start("south")
    assert server.wait(150) == 0, sites.said(SERVER)
    said = json.loads(sites.said(SERVER).splitlines()[-1])
    assert said["failures"] == [["south", "ClientLost"]]
    assert said["seconds"] < ROUND_S / 2  # a lost node is known long before its client's time is up
    assert said["there"] == ["north"]
    assert said["rounds"] == [["north"], ["north", "south"]]
