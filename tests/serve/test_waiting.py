"""Who waits, and who has gone meanwhile."""

import threading

import pytest

from serve.errors import OverloadedError
from serve.waiting import ScoreJob, StreamJob, WaitingRoom


def stream() -> StreamJob:
    return StreamJob(None, emit=lambda item: None)


def test_those_who_have_gone_keep_no_places() -> None:
    room = WaitingRoom(max_waiting=2)
    gone, score = stream(), ScoreJob(None)
    room.enter(gone, score)
    with pytest.raises(OverloadedError, match="2 requests wait already"):
        room.enter(stream())
    gone.cancelled.set()
    score.answer.cancel()
    room.enter(stream(), stream())
    assert (len(room), room.num_streams) == (2, 2)


def test_the_loop_rests_where_all_have_gone() -> None:
    room = WaitingRoom(max_waiting=2)
    gone = stream()
    room.enter(gone)
    gone.cancelled.set()
    closing = threading.Timer(0.2, room.close)
    closing.start()
    room.forget_those_gone()
    room.wait()
    assert room.closed  # that alone ended the wait


def test_those_who_have_gone_take_nobodys_turn() -> None:
    room = WaitingRoom(max_waiting=9)
    jobs = [stream() for _ in range(4)]
    room.enter(*jobs)
    for job in jobs[:2]:
        job.cancelled.set()
    assert room.num_streams == 2
    assert room.take_streams(1) == [jobs[2]]
    scores = [ScoreJob(None) for _ in range(3)]
    room.enter(*scores)
    scores[0].answer.cancel()
    assert room.take_scores(2) == scores[1:]
