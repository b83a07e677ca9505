"""The playground and the API page in a real headless Chromium, without a network."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from fedkim_ray.data.tasks import task_table
from serve.api import create_app
from serve.auth import ApiKeys, KeyFacts, hash_key
from serve.gateway import Gateway
from serve.limits import Limits
from serve.samples import Samples
from serve.transformers_engine import TransformersEngine
from tests.serve.http_server import serving

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's Chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    """One Chromium for all tests of this file."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def guarded_url(engine: TransformersEngine, tiny_root: str) -> Iterator[str]:
    """The app with a key, below a prefix."""
    keys = ApiKeys([("ward", KeyFacts(hash_key("secret")))])
    tasks = {task.id: task for task in engine.facts.tasks}
    samples = Samples.from_root(tiny_root, tasks, engine.facts.spec)
    app = create_app(Gateway(engine), keys=keys, samples=samples)
    with serving(Starlette(routes=[Mount("/fedkim", app)])) as url:
        yield f"{url}/fedkim"


@pytest.fixture
def page(browser: "sync_api.Browser") -> Iterator["sync_api.Page"]:
    """A page that fails the test for an error in its scripts, or for asking another machine."""
    problems: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda m: problems.append(m.text) if m.type == "error" and "401" not in m.text else None,
    )
    page.on(
        "request",
        lambda r: (
            problems.append(f"asked {r.url}")
            if not r.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else None
        ),
    )
    yield page
    page.close()
    assert problems == []


def opened(page: "sync_api.Page", url: str, task: str = "lung_opacity") -> None:
    page.goto(url)
    sync_api.expect(page.locator("#model")).to_contain_text("tiny")
    page.select_option("#task", task)
    sync_api.expect(page.locator("#ask")).to_be_enabled()


def test_a_sample_is_drawn_and_answered_with_probabilities_and_experts(
    page: "sync_api.Page", server_url: str
) -> None:
    opened(page, server_url)
    sync_api.expect(page.locator(".notice")).to_contain_text("Not a medical device")
    sync_api.expect(page.locator("#input img")).to_be_visible()
    page.click("#ask")
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))
    shares = page.locator("#experts meter").evaluate_all("ms => ms.map(m => m.value)")
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1.0, abs=1e-4)
    labels = page.locator("#labels meter").evaluate_all("ms => ms.map(m => m.value)")
    assert sum(labels) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("task", "drawn"),
    [("ecg_abnormal", "svg.ecg path"), ("mortality", "#input table")],
)
def test_recordings_and_series_are_drawn(
    page: "sync_api.Page", server_url: str, task: str, drawn: str
) -> None:
    opened(page, server_url, task)
    sync_api.expect(page.locator(drawn).first).to_be_visible()
    page.click("#ask")
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))


def test_a_generated_answer_streams_in_word_by_word(page: "sync_api.Page", server_url: str) -> None:
    opened(page, server_url, "slake_vqa")
    page.evaluate(
        "() => { window.seen = []; new MutationObserver(() => window.seen.push("
        "document.getElementById('answer').textContent)).observe("
        "document.getElementById('answer'), {childList: true, characterData: true, subtree: true})}"
    )
    page.click("#ask")
    sync_api.expect(page.locator("#origin")).to_contain_text("bundle")
    grown = [text for text in page.evaluate("() => window.seen") if text]
    assert len(set(grown)) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(grown))


def test_an_answer_that_is_not_whole_says_so(page: "sync_api.Page", server_url: str) -> None:
    opened(page, server_url, "slake_vqa")
    page.click("#ask")
    sync_api.expect(page.locator("#ended")).to_contain_text("Cut off")
    page.route("**/v1/chat/completions", lambda route: None)  # an answer that never comes
    page.click("#ask")
    sync_api.expect(page.locator("#ended")).to_be_empty()
    page.click("#stop")
    sync_api.expect(page.locator("#ended")).to_contain_text("Stopped")
    page.select_option("#task", "lung_opacity")
    sync_api.expect(page.locator("#ended")).to_be_empty()


def test_a_recorded_answer_stands_beside_its_own_question_alone(
    page: "sync_api.Page", server_url: str
) -> None:
    opened(page, server_url)
    page.click("#ask")
    sync_api.expect(page.locator("#recorded")).to_contain_text("Recorded answer")
    page.fill("#question", "Is there a fracture?")
    page.click("#ask")
    sync_api.expect(page.locator("#origin")).to_contain_text("bundle")
    sync_api.expect(page.locator("#recorded")).to_be_empty()


def test_a_blank_question_is_the_tasks_own_and_not_the_note(
    page: "sync_api.Page", server_url: str, tmp_path: Path
) -> None:
    opened(page, server_url, "ecg_abnormal")
    own = tmp_path / "own.json"
    ecg = {"leads": ["I", "II"], "sampling_rate_hz": 100, "data": [[0.1, 0.2] * 100] * 2}
    own.write_text(json.dumps({"ecg": ecg, "text": "A note."}))
    page.set_input_files("#file", str(own))
    sync_api.expect(page.locator("svg.ecg path")).to_have_count(2)
    page.fill("#question", " ")
    with page.expect_request("**/v1/chat/completions") as asked:
        page.click("#ask")
    texts = [p["text"] for p in asked.value.post_data_json["messages"][0]["content"] if "text" in p]
    assert texts == ["A note.", task_table()["ecg_abnormal"].question]
    sync_api.expect(page.locator("#question")).to_have_value(texts[1])
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))


def test_a_file_of_ones_own_is_read_and_a_broken_one_is_named(
    page: "sync_api.Page", server_url: str, tmp_path: Path
) -> None:
    opened(page, server_url, "ecg_abnormal")
    wave = [[0.1 * (i % 10) for i in range(200)]] * 2
    own = tmp_path / "own.json"
    own.write_text(
        json.dumps({"ecg": {"leads": ["I", "II"], "sampling_rate_hz": 100, "data": wave}})
    )
    page.set_input_files("#file", str(own))
    sync_api.expect(page.locator("svg.ecg path")).to_have_count(2)
    page.click("#ask")
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))
    torn = tmp_path / "torn.json"
    torn.write_text("{")
    page.set_input_files("#file", str(torn))
    sync_api.expect(page.locator("#problem")).to_contain_text("torn.json cannot be read")
    nothing = tmp_path / "nothing.json"
    nothing.write_text("null")
    page.set_input_files("#file", str(nothing))
    sync_api.expect(page.locator("#problem")).to_contain_text("nothing.json cannot be read")
    page.click("#ask")  # about what is still drawn
    sync_api.expect(page.locator("svg.ecg path")).to_have_count(2)
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))


def test_a_file_may_be_dropped(page: "sync_api.Page", server_url: str) -> None:
    opened(page, server_url, "ecg_abnormal")
    recording = {"leads": ["I"], "sampling_rate_hz": 100, "data": [[0.1, 0.2] * 100]}
    dropped = page.evaluate_handle(
        "text => { const held = new DataTransfer();"
        "held.items.add(new File([text], 'own.json', {type: 'application/json'})); return held; }",
        json.dumps({"ecg": recording}),
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    sync_api.expect(page.locator("#drop")).to_have_class("over")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    sync_api.expect(page.locator("#drop")).not_to_have_class("over")
    sync_api.expect(page.locator("svg.ecg path")).to_have_count(1)
    sync_api.expect(page.locator("#sample")).to_have_value("")


def test_a_recording_as_long_as_the_server_reads_is_drawn(
    page: "sync_api.Page", server_url: str, tmp_path: Path
) -> None:
    opened(page, server_url, "ecg_abnormal")
    lead = [0, 1] * (Limits().signal_samples // 2)
    long = tmp_path / "long.json"
    long.write_text(json.dumps({"ecg": {"leads": ["I"], "sampling_rate_hz": 500, "data": [lead]}}))
    page.set_input_files("#file", str(long))
    sync_api.expect(page.locator("#input figcaption")).to_contain_text("1 leads, 400.0 s")
    sync_api.expect(page.locator("#problem")).to_be_empty()


def test_nothing_is_asked_about_the_task_before_while_a_sample_comes(
    page: "sync_api.Page", server_url: str
) -> None:
    opened(page, server_url, "lung_opacity")
    sync_api.expect(page.locator("#input img")).to_be_visible()
    held: list[sync_api.Route] = []
    page.route("**/v1/samples/ecg_abnormal-0", lambda route: held.append(route))
    page.select_option("#task", "ecg_abnormal")
    sync_api.expect(page.locator("#input img")).to_have_count(0)
    sync_api.expect(page.locator("#ask")).to_be_disabled()
    held[0].continue_()
    sync_api.expect(page.locator("svg.ecg path").first).to_be_visible()
    sync_api.expect(page.locator("#ask")).to_be_enabled()


def test_a_key_connects_the_page_below_a_prefix(page: "sync_api.Page", guarded_url: str) -> None:
    page.goto(guarded_url)
    sync_api.expect(page.locator("#problem")).to_contain_text("no valid API key")
    sync_api.expect(page.locator("#ask")).to_be_disabled()
    page.click("summary")
    page.fill("#key", "guess")
    page.press("#key", "Enter")  # would ask, were there anything to ask yet
    sync_api.expect(page.locator("#model")).to_have_text("Not connected.")
    page.fill("#key", "secret")
    page.press("#key", "Enter")
    sync_api.expect(page.locator("#model")).to_contain_text("tiny")
    page.select_option("#task", "slake_vqa")
    page.click("#ask")
    sync_api.expect(page.locator("#origin")).to_contain_text("bundle")
    sync_api.expect(page.locator("#problem")).to_be_empty()
    page.goto(f"{guarded_url}/docs")
    sync_api.expect(page.locator(".opblock-post").first).to_contain_text("/v1/chat/completions")


def test_a_dicom_file_is_sent_as_it_is(page: "sync_api.Page", server_url: str) -> None:
    data = pytest.importorskip("pydicom.data")
    opened(page, server_url, "lung_opacity")
    page.set_input_files("#file", str(data.get_testdata_file("CT_small.dcm", download=False)))
    sync_api.expect(page.locator("#input")).to_contain_text("A DICOM image")
    page.click("#ask")
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))


def test_the_page_works_from_the_keyboard_alone(page: "sync_api.Page", server_url: str) -> None:
    opened(page, server_url)
    page.focus("#question")
    for _ in range(8):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.id") == "ask":
            break
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#answer")).to_have_text(re.compile("^(Yes|No)$"))
    unnamed = page.locator("input, select, textarea, button").evaluate_all(
        "es => es.filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
    )
    assert unnamed == 0


def test_the_description_of_the_api_is_shown_offline(
    page: "sync_api.Page", server_url: str
) -> None:
    page.goto(f"{server_url}/docs")
    sync_api.expect(page.locator(".opblock-post").first).to_contain_text("/v1/chat/completions")
