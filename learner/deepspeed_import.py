"""What the learner uses of DeepSpeed, imported without MLflow.

DeepSpeed imports MLflow wherever it is installed, for its search of configurations, which nothing here uses: three
seconds of every rank's start. Runs that are tracked there are told by the driver (unisd_rl/tracking/mlflow.py).
"""

from unisd_rl.imports import hidden

__all__ = [
    "deepspeed",
    "safe_get_full_fp32_param",
    "safe_get_full_optimizer_state",
    "safe_get_local_fp32_param",
    "safe_get_local_optimizer_state",
    "safe_set_full_fp32_param",
    "safe_set_full_optimizer_state",
    "safe_set_local_fp32_param",
    "safe_set_local_optimizer_state",
]

with hidden("mlflow"):
    import deepspeed
    from deepspeed.utils import (
        safe_get_full_fp32_param,
        safe_get_full_optimizer_state,
        safe_get_local_fp32_param,
        safe_get_local_optimizer_state,
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )
