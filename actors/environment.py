"""What must be in a rollout actor's environment before anything is imported.

vLLM on the CPU reads all of this at import. Without a plan two engines both bind to the first core.

All of an actor shares its cores, vLLM's process too. Measured on two cores, 3 M parameters, 64 prompts of 40
tokens, a learner computing on the other core: 4,200 to 5,700 tokens/s so. Letting the actor's own process
float gave no more in that case, up to a fifth more beside an idle learner, and took 15 % of a busy
learner's core; vLLM in its usual three processes gave 3,900 to 5,200 on one core.
"""

from pathlib import Path

from unisd_rl.cluster.cores import Cores
from unisd_rl.config import Config, VllmEngine

_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def actor_environment(config: Config, cores: Cores, model_path: Path) -> dict[str, str]:
    """Environment variables of one rollout actor, for Ray's `runtime_env`."""
    variables = dict(_QUIET)
    if model_path.is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if cores:
        variables["OMP_NUM_THREADS"] = str(len(cores))
    if isinstance(config.rollout.engine, VllmEngine) and not config.rollout.gpus_per_actor:
        variables |= _vllm_on_cpu(cores)
    return variables


def _vllm_on_cpu(cores: Cores) -> dict[str, str]:
    """One process for scheduler and model: a second one would only spin on a queue between the two.

    vLLM turns its single-process executor into a multi-process one on the CPU, to set the threads'
    places itself, unless it is told that it must not start processes. We have set the places already.
    """
    return {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
