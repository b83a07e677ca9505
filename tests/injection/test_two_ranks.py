"""Two ranks end as one process with the joint batch, and when one is lost as if none had been."""

from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import ProcessException

from fedkim_ray.injection.worker import InjectionPlan
from fedkim_ray.storage import Folder
from tests.injection.plans import plan_rounds, require_same
from tests.injection.two_ranks import ask_for_one_base, spawn, spawn_workers


@pytest.mark.slow
def test_disjoint_ranks_equal_one_process_under_every_stage(tiny_root: str, tmp_path: Path) -> None:
    spawn(1, (1,), tiny_root, tmp_path, port=29541)
    spawn(2, (0, 1, 2, 3), tiny_root, tmp_path, port=29542)
    joint = Folder.at(tmp_path).read_tensors("stage1-of1.safetensors")
    told = Folder.at(tmp_path).read_json("stage1-of1.json")
    assert told["loss_by_task"].keys() == {"covid19", "mortality"}
    for stage in (0, 1, 2, 3):  # 0 averages gradients, as DDP does
        came = Folder.at(tmp_path).read_tensors(f"stage{stage}-of2.safetensors")
        torch.testing.assert_close(came, joint, rtol=1e-4, atol=2e-5)
        for rank in range(2 if stage < 3 else 0):  # stage 3 cuts the base itself
            assert Folder.at(tmp_path).read_json(f"stage{stage}-of2-copied{rank}.json") == 0
        log = Folder.at(tmp_path).read_json(f"stage{stage}-of2.json")  # of both ranks' examples
        for name in ("loss", "entropy_nats"):
            assert log[name] == pytest.approx(told[name], rel=1e-4), name
        for task, losses in told["loss_by_task"].items():
            assert [x for _, x in log["loss_by_task"][task]] == pytest.approx(
                [x for _, x in losses], rel=1e-4
            )
        torch.testing.assert_close(
            torch.tensor(log["expert_load"]), torch.tensor(told["expert_load"])
        )


@pytest.mark.slow
def test_a_rank_with_another_base_model_is_refused(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(ask_for_one_base, (str(tmp_path), 29543), nprocs=2, join=True)
    told = [Folder.at(tmp_path).read_json(f"base{rank}.json") for rank in range(2)]
    assert told[0] == ""
    assert "01" * 32 in told[1]
    assert "the first's is " + "00" * 32 in told[1]


# Six steps, saved after the second and the fourth: two ranks that lose one after the third go on
# with the third.
@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_a_rank_killed_within_a_round_changes_no_weight(
    stage: int, tiny_root: str, tmp_path: Path
) -> None:
    def plan(name: str) -> InjectionPlan:
        settings = (f"injection.zero_stage={stage}", "injection.num_workers=2")
        return plan_rounds(tmp_path / name, tiny_root, 1, *settings, "base.dtype=bfloat16")[0]

    whole, killed = plan("whole"), plan("killed")
    with pytest.raises(ProcessException):
        spawn_workers([killed], port=29544, killed_after=3)
    assert Folder.at(f"{killed.out_url}.unfinished").names() == ["00000002"]
    spawn_workers([whole, killed], port=29545)
    require_same([killed], [whole])
    assert Folder.at(f"{killed.out_url}.told").read_json("1.json") == [2, 3, 4, 5]
