"""The mailbox on its own event loop: who waits for what, and what comes too late."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from fedkim_ray.config import LocalTrainingConfig
from fedkim_ray.federation.exchange import ClientFailure, RoundPlan
from fedkim_ray.federation.mailbox import Letter, Mailbox, Member


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
        await mailbox.submit("a", 0, "update", 10)
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
        await mailbox.submit("a", 0, "update", 10)
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
        await mailbox.submit("a", 0, "update", 10)
        await mailbox.begin({"a": plan("a", 1)}, "theta")
        assert await mailbox.replies(0.0) == [Letter("a", 0, 10, None)]
        assert (await mailbox.next_plan("a")) == (plan("a", 1), "theta")

    run(scenario())


def test_an_unread_update_is_let_go_when_its_round_ends() -> None:
    async def scenario() -> None:
        mailbox = Mailbox()
        await mailbox.begin({"a": plan("a", 0)}, "theta")
        await mailbox.submit("a", 0, "update", 10)
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
