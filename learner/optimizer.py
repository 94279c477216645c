"""AdamW as `learner.optimizer` says: torch's, or bitsandbytes' with moments of 8 bits; and the state of the latter.

With moments of 8 bits each block of 256 numbers has a float32 scale of its own. DeepSpeed hands the optimiser flat
pieces of many parameters from ZeRO 1 on, cut by the number of ranks, and a block may reach over two parameters: so the
state is saved piece by piece as it lies, and read back on as many ranks of the same stage only.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.sharding import all_gather_ragged
from unisd_rl.config.learner import LearnerConfig
from unisd_rl.errors import RunFailed

BETAS = (0.9, 0.999)
EIGHT_BIT = "adamw_8bit"
"""First part of the names under which a checkpoint holds the state of 8 bits."""
_LAYOUT = f"{EIGHT_BIT}/layout"
_STATE = ("state1", "state2", "absmax1", "absmax2")  # bitsandbytes' names; small tensors have no absmax
Lookup = Callable[[str], Tensor]


def build_optimizer(parameters: Iterable[nn.Parameter], learner: LearnerConfig) -> torch.optim.Optimizer:
    """The optimiser of these parameters; its learning rate is set at each step."""
    groups = parameter_groups(parameters, learner.weight_decay)
    if not learner.eight_bit_moments:
        # Fused: each number is read and written once, and there are no temporaries of the parameters' size.
        return torch.optim.AdamW(groups, lr=learner.learning_rate, betas=BETAS, fused=True)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses kernels for inference, which nobody uses here
    from bitsandbytes.optim import AdamW8bit

    # weight_decay: bitsandbytes' own default for groups without one is 0.01.
    optimiser: torch.optim.Optimizer = AdamW8bit(groups, lr=learner.learning_rate, betas=BETAS, weight_decay=0.0)
    return optimiser


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases, which are vectors, do not. Every group has a parameter."""
    every = list(parameters)
    if not weight_decay:
        return [{"params": every, "weight_decay": 0.0}]  # one group: ZeRO sums its norms in another order over two
    decayed = [parameter for parameter in every if parameter.dim() > 1]
    others = [parameter for parameter in every if parameter.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def set_steps(optimiser: torch.optim.Optimizer, steps: int) -> None:
    """As after `steps` steps: what the moments' corrections are computed from."""
    for state in optimiser.state.values():
        if isinstance(state["step"], Tensor):
            state["step"].fill_(steps)
        else:
            state["step"] = steps


def eight_bit_state(optimiser: torch.optim.Optimizer, stage: int) -> Iterator[tuple[str, Tensor]]:
    """The moments of 8 bits, of all ranks one after the other, and how they are cut. A collective.

    Before the first step there are none, and the layout says so.
    """
    yield _LAYOUT, torch.tensor([stage, dist.get_world_size() if stage else 1, bool(optimiser.state)])
    for name, tensor in _pieces(optimiser):
        whole = all_gather_ragged(tensor.flatten()) if stage else tensor.flatten()
        yield name, whole


def set_eight_bit_state(optimiser: torch.optim.Optimizer, stage: int, lookup: Lookup) -> None:
    """Set what `eight_bit_state` yielded; the optimiser has taken a step. A collective.

    Raises:
        RunFailed: it was left by another number of ranks, or another ZeRO stage.
    """
    ranks = dist.get_world_size() if stage else 1
    saved_stage, saved_ranks, stepped = lookup(_LAYOUT).tolist()
    if (saved_stage, saved_ranks) != (stage, ranks):
        raise RunFailed(
            f'learner.optimizer = "{EIGHT_BIT}": the moments of this checkpoint are cut for ZeRO {saved_stage} on '
            f"{saved_ranks} ranks, and the learner runs ZeRO {stage} on {ranks}; resume with learner.zero_stage = "
            f"{saved_stage} and learner.ranks = {saved_ranks}"
        )
    if not stepped:
        return  # zeros, as they are
    for name, tensor in _pieces(optimiser):
        length = torch.tensor([tensor.numel()], device=tensor.device)
        lengths = all_gather_ragged(length).tolist() if stage else [tensor.numel()]
        own = dist.get_rank() if stage else 0
        start = sum(lengths[:own])
        tensor.copy_(lookup(name)[start : start + tensor.numel()].view_as(tensor))


def _pieces(optimiser: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The state in the order in which it was made, which is that of the parameters."""
    for number, state in enumerate(optimiser.state.values()):
        for key in _STATE:
            if key in state:
                yield f"{EIGHT_BIT}/{number}/{key}", state[key]
