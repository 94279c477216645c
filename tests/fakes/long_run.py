"""A long run in one process, of which only engine and learner are stand-ins:
`python -m tests.fakes.long_run FOLDER STEPS`.

    queue <-- lease, commit --- 2 actors: the real service, an engine that answers within 50 ms
      ^ admit, take
    driver: counts steps, notes every 20th in checkpoint.json, and goes on from there when it is started again

Files are small, so that the ledger is compacted, old rollouts give way to Parquet and lines roll over all the time.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np

from actors.service import RolloutService
from tests.fakes.service_parts import ByteTokenizer, numbered
from unisd_rl.cluster.in_process import in_process
from unisd_rl.cluster.processes import ProcessOptions
from unisd_rl.cluster.runtime import runtime
from unisd_rl.cluster.waiting import fetch, wait
from unisd_rl.config import Config
from unisd_rl.storage import jsonl
from unisd_rl.storage.files import write_text_atomic
from unisd_rl.transport.rollouts import compaction, segments
from unisd_rl.transport.rollouts.actor_client import QueueProcess
from unisd_rl.transport.rollouts.driver_client import QueueClient, spawn_queue
from unisd_rl.types import Generation, PolicyVersion

BATCH, ANSWERS, STALENESS, EVERY, ACTORS = 128, 4, 2, 20, 2
STEP_S, CALL_S = 120.0, 60.0
CHECKPOINT = "checkpoint.json"
CONFIG = {
    "learner": {"batch_size": BATCH},
    "rollout": {"max_staleness": STALENESS, "answers_per_prompt": ANSWERS, "concurrency": 2 * BATCH},
    "objective": {"divergence": {}},
}


def answer_to(seed: int) -> np.ndarray:
    """The completion tokens of a prompt with this seed."""
    return np.arange(seed, seed + 1 + seed * 7 % 32, dtype=np.int32)


class SeededEngine:
    """Answers as the seed says, after a time that does too; the second half is by the weights that it has then."""

    def __init__(self) -> None:
        self.version = PolicyVersion(0, -1)

    async def generate(self, tokens, sampling) -> Generation:
        begun, answer = self.version, answer_to(sampling.seed)
        await asyncio.sleep(0.05 * len(answer) / 32)
        versions = np.full(len(answer), begun.number, np.int32)
        versions[len(answer) // 2 :] = self.version.number
        lineages = np.full(len(answer), self.version.lineage, np.int32)
        return Generation(answer, np.zeros(len(answer), np.float32), lineages, versions, "stop")


class LongRunActor:
    """As `RolloutActor`, without weights."""

    def __init__(self, name: str, queue, config: Config) -> None:
        self._engine = SeededEngine()
        leases = QueueProcess(queue, config.faults)
        self._service = RolloutService(name, config.rollout, self._engine, ByteTokenizer(), leases)

    async def update(self, version: PolicyVersion) -> None:
        self._engine.version = version
        self._service.weights_changed()

    async def serve(self) -> None:
        await self._service.serve()


def main(folder: Path, steps: int) -> None:
    """From the last checkpoint to the end."""
    jsonl._PART_BYTES, segments.SEGMENT_BYTES, compaction._COMPACTED_BYTES = 1 << 18, 1 << 18, 1 << 20
    config, checkpoint = Config.model_validate(CONFIG), folder / CHECKPOINT
    queue = spawn_queue(folder, config)
    client = QueueClient(queue, config, print)
    step = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    lineage = client.lineage()
    if client.report().committed:
        lineage += 1
        client.roll_back(lineage, step)
    options = ProcessOptions({}, concurrency=1000)
    actors = [
        runtime().spawn(LongRunActor, f"rollout-{index}", queue, config, options=options) for index in range(ACTORS)
    ]
    serving = [actor.serve.remote() for actor in actors]

    def check() -> None:
        for ended in wait(serving, 0.0):
            fetch(ended, CALL_S)

    def update() -> None:
        for call in [actor.update.remote(PolicyVersion(lineage, step)) for actor in actors]:
            fetch(call, CALL_S)

    update()
    while step < steps:
        end = min(step + STALENESS + 2, steps) * BATCH
        client.admit([numbered(number, answers=ANSWERS) for number in range(client.admitted, end)])
        client.take(step, 1, STEP_S, check)
        step += 1
        if step % EVERY == 0:
            write_text_atomic(checkpoint, json.dumps({"step": step}))
        print(f"step {step}", flush=True)
        update()
    print("done", flush=True)


if __name__ == "__main__":
    with in_process():
        main(Path(sys.argv[1]), int(sys.argv[2]))
