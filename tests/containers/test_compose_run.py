"""docker-compose.yml in containers: a whole life of a run, with nodes lost, a stop, and new containers.

One job on two rollout nodes. A rollout container is killed in mid-run and started again by hand; the learner's process
is killed and its container started again by the compose file's restart policy; `ray job stop` ends the job; all
containers are removed, and new ones resume the run from the volume and finish it. Nothing is lost, nothing comes twice.
"""

import re
from collections.abc import Iterator

import pytest

from tests.fakes.containers import RUN, Containers, build_image, lacking
from tests.fakes.finished import (
    FinishedRun,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    assert_staleness_within,
)
from unisd_rl.base_model import BaseModelRecipe, ensure_base_model

STEPS, BATCH = 320, 16
JOB = (
    f"unisd_star cluster --rollout.actors 2 --run.steps {STEPS} --learner.batch_size {BATCH} --run.checkpoint_every 10 "
    "--task.eval_examples 32"
)
START_S, RECOVERY_S = 600.0, 300.0

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(lacking() is not None, reason=lacking() or ""),
]


@pytest.fixture(scope="module")
def containers(tmp_path_factory) -> Iterator[Containers]:
    build_image()
    project = Containers(tmp_path_factory.mktemp("containers"))
    model = ensure_base_model(BaseModelRecipe(), lambda *_: None)  # in its container it would be trained for minutes
    try:
        project.give_base_model(model)
        yield project
    finally:
        project.down("--volumes")


def steps_of(containers: Containers) -> int:
    return len(containers.rows("metrics.jsonl"))


def parts(containers: Containers, event: str) -> set[str]:
    """Kinds of the parts (`rollout`, `learner`) that had a `failure` or a `recovery` so far."""
    rows = containers.rows("events.jsonl")
    return {row["component"].partition("-")[0] for row in rows if row["event"] == event}


def test_a_run_outlives_its_containers_and_loses_nothing(containers):
    containers.compose("up", "--no-build", "--detach", "--scale", "rollout=2", UNISD_JOB=JOB)
    containers.wait_until(lambda: steps_of(containers) > 3, "the run trains", START_S)
    containers.podman("healthcheck", "run", containers.name("head"))

    containers.podman("kill", containers.name("rollout", 2))
    containers.wait_until(lambda: "rollout" in parts(containers, "failure"), "a rollout actor is missed", RECOVERY_S)
    containers.podman("start", containers.name("rollout", 2))
    before = steps_of(containers)
    containers.wait_until(lambda: steps_of(containers) > before + 3, "the run goes on with one actor", RECOVERY_S)

    containers.podman("exec", "--detach", "--user", "root", containers.name("learner"), "sh", "-c", "kill -9 -1")
    containers.wait_until(lambda: containers.rows("lineages.jsonl") != [], "the learner is rolled back", RECOVERY_S)
    before = steps_of(containers)
    containers.wait_until(lambda: steps_of(containers) > before + 3, "the run goes on from there", RECOVERY_S)

    recovered = "a rollout actor serves from the container that was started again"
    containers.wait_until(lambda: "rollout" in parts(containers, "recovery"), recovered, RECOVERY_S)

    (submission,) = set(re.findall(r"raysubmit_\w+", containers.in_head("ray", "job", "list")))
    assert "was stopped" in containers.in_head("ray", "job", "stop", submission)
    assert containers.podman("wait", containers.name("job")).strip() == "0"
    stopped = FinishedRun(containers.copy_run(), containers.podman("logs", containers.name("job")))
    assert stopped.summary["status"] == "interrupted"
    assert stopped.summary["steps"] < STEPS

    containers.down()
    output = containers.compose(
        "up", "--no-build", "--scale", "rollout=2", "--exit-code-from", "job", UNISD_JOB=f"--resume {RUN}",
        timeout_s=START_S,
    )  # fmt: skip
    run = FinishedRun(containers.copy_run(), output)
    assert run.summary["status"] == "completed"
    assert run.summary["steps"] == STEPS
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_staleness_within(run, bound=1)
    assert_accuracy_is_what_its_items_say(run)
