"""What a submitted run's job is told."""

from typing import Any

from fedkim_ray import ray_jobs


class Cluster:
    """Takes a job and remembers what it was given."""

    def submit_job(self, **told: Any) -> str:
        """Return the job's id."""
        self.told = told
        return str(told["submission_id"])


def test_a_run_that_is_told_to_end_gets_a_minute_for_it() -> None:
    cluster = Cluster()
    ray_jobs.resume_run(cluster, "runs/mine")  # type: ignore[arg-type]
    assert cluster.told["runtime_env"] == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    assert cluster.told["entrypoint"] == "fedkim run --resume --out runs/mine --events"
