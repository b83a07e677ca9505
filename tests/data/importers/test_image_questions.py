"""VQA-RAD and SLAKE: questions about images, all of them in test."""

from pathlib import Path

from fedkim_ray.data.importers.vqa_rad import group_images

from .imported import bring_in, examples_of
from .shipped_images import write_slake, write_vqa_rad

RAD = [
    ("synpic1.jpg", "a", "freeform", "Yes"),
    ("synpic1.jpg", "a", "para", "Yes"),
    ("synpic2.jpg", "b", "freeform", "Left lung"),
    ("synpic3.jpg", "b", "test_para", "Left lung"),
    ("synpic4.jpg", "NULL", "test_freeform", "No"),
    ("synpic5.jpg", "NULL", "freeform", "No"),
]
SMALL = {"size_px": 16}


def test_linked_questions_share_a_subject(tmp_path: Path) -> None:
    write_vqa_rad(tmp_path / "source", RAD)
    result = bring_in("vqa_rad", tmp_path / "source", tmp_path / "root", options=SMALL)
    assert result.record.counts == {"test": {"med_vqa": 6}}
    examples = examples_of(tmp_path / "root", "med_vqa")
    assert [e.question for e in examples] == [f"Question {i}?" for i in range(6)]
    assert [e.answer for e in examples][:3] == ["Yes", "Yes", "Left lung"]
    # Images 1, {2, 3}, 4 and 5: the link of 2 and 3 joins them.
    subjects = [e.subject_id for e in examples]
    assert subjects[0] == subjects[1]
    assert subjects[2] == subjects[3]
    assert len(set(subjects)) == 4


def test_the_owners_test_split_alone(tmp_path: Path) -> None:
    write_vqa_rad(tmp_path / "source", RAD)
    (tmp_path / "source/images").rename(tmp_path / "source/VQA_RAD Image Folder")
    options = {**SMALL, "questions": "test"}
    result = bring_in("vqa_rad", tmp_path / "source", tmp_path / "root", options=options)
    assert result.record.counts == {"test": {"med_vqa": 2}}
    assert result.record.left_out == {"question of the owner's training split": 4}


def test_groups_join_over_chains() -> None:
    # 1-a-2, 2-b-3: one group, named by its first image; 9 stays alone.
    links = [("p1", "a"), ("p2", "a"), ("p2", "b"), ("p3", "b"), ("p9", "c")]
    questions = [{"image_name": image, "qid_linked_id": link} for image, link in links]
    groups = group_images(questions)
    assert groups == {"p1": "p1", "p2": "p1", "p3": "p1", "p9": "p9"}
    assert group_images(questions[::-1]) == groups


def test_a_question_without_its_image_or_answer_is_rejected(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_vqa_rad(source, [*RAD, ("synpic6.jpg", "x", "freeform", "")])
    (source / "images/synpic5.jpg").unlink()
    result = bring_in("vqa_rad", source, tmp_path / "root", options=SMALL, max_rejected=0.5)
    assert result.record.rejected == {"file_missing": 1, "label_missing": 1}


def test_slake_is_asked_in_english(tmp_path: Path) -> None:
    write_slake(tmp_path / "source", 8)
    result = bring_in("slake", tmp_path / "source", tmp_path / "root", options=SMALL)
    assert result.record.counts == {"test": {"slake_vqa": 8}}
    assert result.record.left_out == {"question in another language": 8}
    examples = examples_of(tmp_path / "root", "slake_vqa")
    assert sorted(e.answer for e in examples) == [f"Answer {i}" for i in range(8)]
    assert {e.question for e in examples} == {"What modality is used?"}
    assert len({e.subject_id for e in examples}) == 8


def test_slake_from_inside_its_folder(tmp_path: Path) -> None:
    write_slake(tmp_path / "source", 8)
    options = {**SMALL, "questions": "test"}
    result = bring_in("slake", tmp_path / "source/Slake1.0", tmp_path / "root", options=options)
    # Images 3 and 7 are the owner's test images.
    assert result.record.counts == {"test": {"slake_vqa": 2}}
