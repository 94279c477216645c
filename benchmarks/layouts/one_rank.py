"""The environment of a process that is the only rank of a learner."""


def one_rank(device: str = "cpu") -> dict[str, str]:
    """What `learner.sharding.init_process_group` and DeepSpeed read; port 0 is whichever is free."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    return {**place, "DS_ACCELERATOR": device}
