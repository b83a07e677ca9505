"""An evaluation that goes on: kept answers, half lines, and other questions."""

from pathlib import Path

import pytest

from fedkim_ray.bundle.read import LoadedBundle
from fedkim_ray.config import EvaluationConfig
from fedkim_ray.evaluation import scoring
from fedkim_ray.evaluation.answer_log import LOG, AnswerLog
from fedkim_ray.evaluation.answers import Answer
from fedkim_ray.evaluation.evaluate import evaluate_bundle
from fedkim_ray.evaluation.results import write_report
from fedkim_ray.storage import Folder

FACTS = {"bundle": "a", "read": "likelihood"}
YES, WORDS = Answer("Yes", "likelihood", 0.75), Answer("left\nlung", "generate")


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    AnswerLog(folder, FACTS).add({("covid19", 0): YES, ("med_vqa", 3): WORDS})
    log = AnswerLog(folder, FACTS)
    assert log.answers == {("covid19", 0): YES, ("med_vqa", 3): WORDS}


def test_an_object_store_is_sent_ten_times_the_log_and_lacks_a_tenth_at_most() -> None:
    folder, sent = Folder.at("memory://answers-log"), 0
    log = AnswerLog(folder, FACTS)
    for row in range(1000):
        before = folder.read_bytes(LOG)
        log.add({("covid19", row): YES})
        after = folder.read_bytes(LOG)
        sent += len(after) if after != before else 0
        assert after.count(b"\n") - 1 > 0.9 * row
    assert sent < 12 * len(folder.read_bytes(LOG))


def test_half_a_line_is_asked_again(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    AnswerLog(folder, FACTS).add({("covid19", 0): YES, ("covid19", 1): YES})
    whole = folder.read_bytes(LOG)
    folder.write_bytes(LOG, whole[:-10])
    log = AnswerLog(folder, FACTS)
    assert list(log.answers) == [("covid19", 0)]
    log.add({("covid19", 1): YES})
    assert list(AnswerLog(folder, FACTS).answers) == [("covid19", 0), ("covid19", 1)]


def test_answers_to_other_questions_are_forgotten(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    AnswerLog(folder, FACTS).add({("covid19", 0): YES})
    assert AnswerLog(folder, {**FACTS, "bundle": "b"}).answers == {}
    assert AnswerLog(folder, FACTS).answers == {}


def test_a_killed_evaluation_asks_only_the_rest(
    bundle: LoadedBundle, tiny_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept = Folder.at(tiny_root), Folder.at(tmp_path)
    config = EvaluationConfig(batch_size=16, bootstrap_samples=5)
    asked: list[int] = []
    ask = scoring._by_likelihood

    def count(*arguments: object) -> list[Answer]:
        if sum(asked) == 32:
            raise KeyboardInterrupt  # killed after two of three batches
        asked.append(16)
        return ask(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "_by_likelihood", count)
    with pytest.raises(KeyboardInterrupt):
        evaluate_bundle(bundle, root, config, ["covid19"], keep_in=kept)
    asked.clear()
    report = evaluate_bundle(bundle, root, config, ["covid19"], keep_in=kept)
    assert sum(asked) == 16
    monkeypatch.undo()
    whole = evaluate_bundle(bundle, root, config, ["covid19"])
    assert report.answers is not None
    assert report.answers.equals(whole.answers)
    write_report(report, kept)
    assert not kept.exists(LOG)
