"""How a process becomes one of the learner's ranks: threads, device, process group."""

from datetime import timedelta

import deepspeed
import torch


def join(gpus: bool, threads: int, timeout_s: float) -> torch.device:
    """Meet the ranks named by MASTER_ADDR, MASTER_PORT, RANK, WORLD_SIZE and LOCAL_RANK; returns the device to use.

    `threads` 0 leaves torch's own number. A collective that takes longer than `timeout_s` fails.
    """
    if threads:
        torch.set_num_threads(threads)
    # DeepSpeed would compile a shared-memory all-reduce here, for a minute and with a compiler that may not be there.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("nccl" if gpus else "gloo", timeout=timedelta(seconds=timeout_s), verbose=False)
    return torch.device("cuda", 0) if gpus else torch.device("cpu")
