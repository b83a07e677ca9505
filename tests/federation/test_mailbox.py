"""The mailbox on its own event loop: who waits for what, and what comes too late."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fedkim_ray.config import LocalTrainingConfig
from fedkim_ray.federation.mailbox import MAX_VAIN_STARTS, Letter, Mailbox, Member
from fedkim_ray.federation.members import GRACE_S
from fedkim_ray.federation.plan import ClientFailure, RoundPlan


def plan(client_id: str, round_index: int) -> RoundPlan:
    return RoundPlan(
        round_index=round_index, client_id=client_id, seed=0, local=LocalTrainingConfig()
    )


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario; whatever waits for longer than 5 s waits in vain."""
    asyncio.run(asyncio.wait_for(scenario, 5.0))


def test_a_plan_reaches_the_client_that_waits_for_it() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        waiting = asyncio.create_task(mailbox.next_plan("a"))
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        assert await waiting == (plan("a", 0), "theta")

    run(scenario())


def test_a_restarted_client_gets_the_plan_it_has_not_answered() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        assert await mailbox.next_plan("a") == await mailbox.next_plan("a")
        await mailbox.submit("a", 0, "train", "update", 10)
        again = asyncio.create_task(mailbox.next_plan("a"))
        await asyncio.sleep(0)
        assert not again.done()
        await mailbox.begin({"a": plan("a", 1)}, "theta")
        assert (await again) == (plan("a", 1), "theta")

    run(scenario())


def test_replies_wait_for_the_first_and_come_once() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0), "b": plan("b", 0)}, "theta")
        waiting = asyncio.create_task(mailbox.replies(60.0))
        await mailbox.submit("a", 0, "train", "update", 10)
        assert await waiting == [Letter("a", 0, 10, "update")]
        assert await mailbox.replies(0.0) == []
        failure = ClientFailure(client_id="b", round_index=0, code="DataError", message="no data")
        await mailbox.fail(failure)
        assert await mailbox.replies(0.0) == [failure]

    run(scenario())


def test_an_update_for_an_ended_round_is_told_and_not_kept() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        await mailbox.end_round()
        await mailbox.submit("a", 0, "train", "update", 10)
        await mailbox.begin({"a": plan("a", 1)}, "theta")
        assert await mailbox.replies(0.0) == [Letter("a", 0, 10, None)]
        assert (await mailbox.next_plan("a")) == (plan("a", 1), "theta")

    run(scenario())


def test_an_unread_update_is_let_go_when_its_round_ends() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        await mailbox.submit("a", 0, "train", "update", 10)
        await mailbox.end_round()
        assert await mailbox.replies(0.0) == [Letter("a", 0, 10, None)]

    run(scenario())


def test_a_lost_client_fails_this_round_and_each_one_after() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        for round_index in (0, 1):
            await mailbox.begin({"a": plan("a", round_index)}, "theta")
            await mailbox.lose("a", "Its node is gone.")
            lost = ClientFailure(
                client_id="a",
                round_index=round_index,
                code="ClientLost",
                message="Its node is gone.",
            )
            assert await mailbox.replies(0.0) == [lost]
        await mailbox.begin({"a": plan("a", 2)}, "theta")
        assert len(await mailbox.replies(0.0)) == 1

    run(scenario())


def test_the_first_attempts_failure_leaves_the_second_open_and_its_update_does_not() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        first, second = plan("a", 0), plan("a", 0).model_copy(update={"attempt": 1})
        await mailbox.begin({"a": first}, "theta")
        await mailbox.begin({"a": second}, "theta")
        late = ClientFailure.of(first, "ClientTimeout", "It had not answered after 600 s.")
        await mailbox.fail(late)
        assert await mailbox.next_plan("a") == (second, "theta")
        await mailbox.submit("a", 0, "train", "update", 10)
        assert await mailbox.replies(0.0) == [late, Letter("a", 0, 10, "update")]

    run(scenario())


def test_a_wait_of_a_process_that_died_takes_no_plan() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(pooled=True)
        waits = []
        for pid in range(5):  # more than a plan may be handed out
            await mailbox.join("s0", "node", pid)
            waits.append(asyncio.create_task(mailbox.next_plan("s0")))
            await asyncio.sleep(0)
        await mailbox.begin({"a": pooled_plan("a")}, "theta")
        assert await asyncio.gather(*waits) == [*[None] * 4, (pooled_plan("a"), "theta")]
        assert await mailbox.replies(0.0) == []

    run(scenario())


def test_members_are_those_that_joined_last() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        waiting = asyncio.create_task(mailbox.members(0, 60.0))
        await mailbox.join("a", "node-1", 11)
        assert await waiting == ({"a": Member("node-1", 11, 1)}, {})
        await mailbox.join("a", "node-2", 22)
        await mailbox.lose("b", "gone")
        assert await mailbox.members(1, 60.0) == ({"a": Member("node-2", 22, 2)}, {"b": "gone"})
        assert len(await mailbox.members(2, 0.0)) == 2  # nobody else came in time

    run(scenario())


def test_stopping_ends_every_wait() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        plan_wait = asyncio.create_task(mailbox.next_plan("a"))
        reply_wait = asyncio.create_task(mailbox.replies(60.0))
        await asyncio.sleep(0)
        await mailbox.stop()
        assert (await plan_wait, await reply_wait) == (None, [])

    run(scenario())


def pooled_plan(client_id: str, timeout_s: float | None = None) -> RoundPlan:
    return plan(client_id, 0).model_copy(update={"timeout_s": timeout_s})


async def taken(mailbox: Mailbox, slot: str) -> str:
    """Return the client whose plan a slot gets."""
    answer = await mailbox.next_plan(slot)
    assert answer is not None
    return answer[0].client_id


def test_slots_take_the_next_client_from_the_queue() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(pooled=True)
        await mailbox.begin({c: pooled_plan(c) for c in "abc"}, "theta")
        assert [await taken(mailbox, s) for s in ("s0", "s1")] == ["a", "b"]
        assert await mailbox.submit("b", 0, "train", "update", 1)  # c still waits for a slot
        assert await taken(mailbox, "s1") == "c"
        assert not await mailbox.submit("c", 0, "train", "update", 1)
        assert await taken(mailbox, "s0") == "a"  # restarted, it gets what it has not answered

    run(scenario())


def test_a_plan_that_kills_its_slots_is_given_up() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(pooled=True)
        await mailbox.begin({"a": pooled_plan("a"), "b": pooled_plan("b")}, "theta")
        assert [await taken(mailbox, "s0") for _ in range(4)] == ["a", "a", "a", "b"]
        [failure] = await mailbox.replies(0.0)
        assert isinstance(failure, ClientFailure)
        assert (failure.client_id, failure.code) == ("a", "ClientLost")
        assert "died 3 times" in failure.message

    run(scenario())


class Hands:
    """A clock whose hands a test turns."""

    now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def test_a_slots_client_is_timed_from_when_it_was_taken() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = Mailbox(pooled=True, clock=clock)
        await mailbox.begin({c: pooled_plan(c, 60.0) for c in "ab"}, "theta")
        clock.now_s = 1000.0
        await taken(mailbox, "s0")
        clock.now_s = 1060.0 + GRACE_S
        assert await mailbox.replies(0.0) == []
        clock.now_s += 1.0
        [failure] = await mailbox.replies(0.0)
        assert isinstance(failure, ClientFailure)
        assert (failure.client_id, failure.code) == ("a", "ClientTimeout")

    run(scenario())


def test_plans_that_no_slot_takes_are_given_up() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = Mailbox(pooled=True, idle_timeout_s=180.0, clock=clock)
        await mailbox.begin({c: pooled_plan(c) for c in "ab"}, "theta")
        clock.now_s = 180.0
        assert await mailbox.replies(0.0) == []
        clock.now_s = 181.0
        assert [f.client_id for f in await mailbox.replies(0.0)] == ["a", "b"]

    run(scenario())


def test_slots_are_idle_from_when_the_round_begins() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = Mailbox(pooled=True, idle_timeout_s=180.0, clock=clock)
        clock.now_s = 3600.0  # an injection of an hour
        await mailbox.begin({"a": pooled_plan("a")}, "theta")
        assert await mailbox.replies(0.0) == []

    run(scenario())


async def a_queue_behind_a_busy_slot(clock: Hands) -> Mailbox:
    """Return a mailbox whose only slot took a, of 600 s, and where plans may lie for 180 s."""
    mailbox = Mailbox(pooled=True, idle_timeout_s=180.0, clock=clock)
    await mailbox.join("s0", "node", 1)
    await mailbox.begin({c: pooled_plan(c, 600.0) for c in "ab"}, "theta")
    assert await taken(mailbox, "s0") == "a"
    return mailbox


def test_plans_behind_a_busy_slot_wait_for_it() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = await a_queue_behind_a_busy_slot(clock)
        clock.now_s = 600.0
        assert await mailbox.replies(0.0) == []
        await mailbox.submit("a", 0, "train", "update", 1)
        assert await taken(mailbox, "s0") == "b"
        assert await mailbox.replies(0.0) == [Letter("a", 0, 1, "update")]

    run(scenario())


def test_a_slot_with_work_of_an_earlier_attempt_is_busy_in_the_next() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = await a_queue_behind_a_busy_slot(clock)
        clock.now_s = 10.0
        await mailbox.begin({"b": pooled_plan("b", 600.0)}, "theta")
        clock.now_s = 200.0
        assert await mailbox.replies(0.0) == []
        await mailbox.join("s0", "node", 2)  # its process died, and another waits for nothing
        clock.now_s = 381.0
        assert [f.client_id for f in await mailbox.replies(0.0)] == ["b"]

    run(scenario())


def test_slots_are_idle_from_when_the_last_was_taken_for_lost() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = await a_queue_behind_a_busy_slot(clock)
        for now_s, failed in ((610.0, []), (611.0, ["a"]), (791.0, []), (792.0, ["b"])):
            clock.now_s = now_s
            assert [f.client_id for f in await mailbox.replies(0.0)] == failed

    run(scenario())


def test_a_late_update_from_the_queues_middle_is_not_given_up() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = Mailbox(pooled=True, idle_timeout_s=180.0, clock=clock)
        await mailbox.begin({c: pooled_plan(c) for c in "abc"}, "theta")
        await mailbox.submit("b", 0, "train", "update", 1)  # of the first attempt
        clock.now_s = 181.0
        answers = await mailbox.replies(0.0)
        assert [(type(a), a.client_id) for a in answers] == [
            (Letter, "b"),
            (ClientFailure, "a"),
            (ClientFailure, "c"),
        ]

    run(scenario())


async def two_slots_with_a_and_b() -> Mailbox:
    """Return a mailbox whose slots on two nodes have taken two of three plans."""
    mailbox = Mailbox(pooled=True)
    await mailbox.join("s0", "near", 1)
    await mailbox.join("s1", "far", 2)
    await mailbox.begin({c: pooled_plan(c) for c in "abc"}, "theta")
    assert [await taken(mailbox, s) for s in ("s0", "s1")] == ["a", "b"]
    return mailbox


def test_what_a_slot_had_on_a_lost_node_another_takes() -> None:
    async def scenario() -> None:
        mailbox = await two_slots_with_a_and_b()
        await mailbox.only_nodes({"near"})
        assert await mailbox.submit("a", 0, "train", "update", 1)
        assert await taken(mailbox, "s0") == "b"
        await mailbox.join("s1", "near", 3)  # started anew where there is room
        assert await taken(mailbox, "s1") == "c"

    run(scenario())


def test_what_a_lost_slot_had_another_takes() -> None:
    async def scenario() -> None:
        mailbox = await two_slots_with_a_and_b()
        await mailbox.lose("s1", "Its run is over.")
        await mailbox.submit("a", 0, "train", "update", 1)
        assert await taken(mailbox, "s0") == "b"

    run(scenario())


def test_without_any_slot_every_client_is_lost() -> None:
    async def scenario() -> None:
        mailbox = Mailbox(pooled=True)
        for slot in ("s0", "s1"):
            await mailbox.join(slot, "node", 1)
        await mailbox.begin({c: pooled_plan(c) for c in "ab"}, "theta")
        await mailbox.lose("s0", "It is over.")
        assert await mailbox.replies(0.0) == []
        await mailbox.lose("s1", "It is over.")
        assert [f.client_id for f in await mailbox.replies(0.0)] == ["a", "b"]

    run(scenario())


def test_an_answer_to_other_work_of_the_round_leaves_the_plan_open() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        await mailbox.submit("a", 0, "score_injected", "late", 1)
        assert await mailbox.replies(0.0) == [Letter("a", 0, 1, None, "score_injected")]
        assert (await mailbox.next_plan("a")) == (plan("a", 0), "theta")

    run(scenario())


def test_an_update_that_came_too_late_to_be_kept_is_asked_for_again() -> None:
    async def scenario() -> None:
        clock = Hands()
        mailbox = await a_queue_behind_a_busy_slot(clock)
        clock.now_s = 611.0
        assert [f.client_id for f in await mailbox.replies(0.0)] == ["a"]
        await mailbox.submit("a", 0, "train", "update", 1)  # nobody reads it before the retry
        await mailbox.begin({"a": pooled_plan("a").model_copy(update={"attempt": 1})}, "theta")
        assert await mailbox.replies(0.0) == []
        assert await taken(mailbox, "s0") == "a"

    run(scenario())


async def die(mailbox: Mailbox, times: int) -> None:
    """Let the processes of ``a`` die with a plan in hand, so many times, and another start."""
    for pid in range(times):
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        await mailbox.next_plan("a")
        await mailbox.join("a", "node", pid)


def test_a_member_whose_processes_all_die_without_a_word_is_lost() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.join("a", "node", 0)
        await die(mailbox, MAX_VAIN_STARTS)
        assert await mailbox.next_plan("a") is None
        await mailbox.lose("a", "Its run ended.")
        [failure] = await mailbox.replies(0.0)
        assert isinstance(failure, ClientFailure)
        assert (failure.code, "20 times in a row" in failure.message) == ("ClientLost", True)

    run(scenario())


def test_deaths_between_answers_do_not_add_up() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.join("a", "node", 0)
        for _ in range(3):
            await die(mailbox, MAX_VAIN_STARTS - 1)
            await mailbox.begin({"a": plan("a", 0)}, "theta")
            await mailbox.next_plan("a")
            await mailbox.fail(ClientFailure.of(plan("a", 0), "ClientTimeout", "It hung."))
        assert (await mailbox.members(-1, 0.0))[1] == {}

    run(scenario())
