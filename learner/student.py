"""The student: the `CausalLM` that is trained, owned by a DeepSpeed engine of ZeRO stage 0 to 3.

DeepSpeed averages gradients over ranks and the objective wants their sum, so losses are multiplied by the number of
ranks. It clips to norm 1 unless told otherwise, so it is told.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.batch import Inputs
from learner.deepspeed_import import deepspeed
from learner.lora import STUDENT
from learner.model import CausalLM, HiddenStateFn, Result
from learner.optimizer import build_optimizer, set_steps
from unisd_rl.config import Config
from unisd_rl.objective.kernels.head import Head
from unisd_rl.transport.weights.adapter import factors

ZERO3_KEEP_NOTHING_GATHERED = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}
"""ZeRO-3 without copies of weights beyond the pass that needed them."""


class Student:
    """The model that is trained. Every method is a collective of all ranks."""

    def __init__(self, lm: CausalLM, config: Config) -> None:
        self.lm = lm
        self.stage = config.zero_stage
        """Of ZeRO, as it is run."""
        self._ranks = dist.get_world_size()
        if config.learner.gradient_checkpointing:
            lm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._lora = config.model.lora
        self.optimizer_steps = 0
        """AdamW steps taken: the version, less the steps that had no token to train on."""
        self.eight_bit_moments = config.learner.eight_bit_moments
        """Whether AdamW's moments are of 8 bits, which `optimizer.py` reads and sets."""
        optimiser = build_optimizer(self.parameters.values(), config.learner)
        self._engine, self._optimiser, _, _ = deepspeed.initialize(
            model=lm, optimizer=optimiser, config=engine_settings(config)
        )

        if self._ranks == 1 and self.stage == 0:
            self._engine.enable_backward_allreduce = False  # with nobody: it would copy all gradients twice

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, in the model's order: all weights by Hugging Face name, tied ones once, or the factors."""
        model = self.lm.model
        return dict(model.named_parameters()) if self._lora is None else factors(model, STUDENT)

    @torch.no_grad()
    def forward(self, inputs: Inputs, on_hidden: HiddenStateFn[Result]) -> Result:
        """One pass without gradient, and without dropout."""
        self._engine.eval()
        return self._engine(inputs, on_hidden)

    def forward_backward(self, inputs: Inputs, on_hidden: HiddenStateFn[tuple[Tensor, Result]], last: bool) -> Result:
        """One pass with gradient: `on_hidden` returns the micro-batch's part of the loss, and a result for the caller.

        Gradients of all passes are added up; with the `last` one they are summed over ranks.
        """
        self._engine.train()
        self._engine.set_gradient_accumulation_boundary(last)
        loss, result = self._engine(inputs, on_hidden)
        self._engine.backward(loss * self._ranks)
        return result

    def optim_step(self, learning_rate: float) -> float:
        """Clip, take one AdamW step, forget the gradients. Returns their norm before clipping."""
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if self.stage == 0 else None
        self._engine.step()
        self.optimizer_steps += 1
        return float(self._engine.get_global_grad_norm()) if norm is None else norm

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW itself: of the parameters, or of DeepSpeed's flat pieces of them."""
        optimiser: torch.optim.Optimizer = self._engine.basic_optimizer
        return optimiser

    @property
    def has_optimizer_state(self) -> bool:
        """Whether AdamW has taken a step."""
        return bool(self.optimizer.state)

    @property
    def has_full_optimizer_state(self) -> bool:
        """Whether AdamW works on the parameters themselves and not on DeepSpeed's flat pieces of them."""
        return self.stage == 0

    def optimizer_state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """AdamW's own state of a parameter, where it `has_full_optimizer_state`."""
        return self.optimizer.state[parameter]

    def init_optimizer_state(self, steps: int, empty_inputs: Inputs) -> None:
        """Make AdamW's moments, as after `steps` steps, so that they can be set; `empty_inputs` has no token."""

        def zero_loss(hidden_NH: Tensor, head: Head) -> tuple[Tensor, None]:
            return hidden_NH.sum() + 0.0 * head.weight_VH.sum(), None  # a gradient of zeros for every parameter

        self.forward_backward(empty_inputs, zero_loss, last=True)
        self.optim_step(learning_rate=0.0)  # optimisers make their moments in their first step
        set_steps(self.optimizer, steps)
        self.optimizer_steps = steps

    def close(self) -> None:
        """Let go of DeepSpeed's buffers and hooks."""
        self._engine.destroy()


def engine_settings(config: Config) -> dict[str, Any]:
    """DeepSpeed's configuration for the student.

    Under LoRA the teacher's factors live in the same engine, and the average changes their shards: no weight may
    outlive the pass that gathered it.
    """
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.learner.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": bool(config.learner.gpus_per_rank)}
    if config.model.lora is not None and zero["stage"] == 3:
        zero |= ZERO3_KEEP_NOTHING_GATHERED
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: passes are sized in tokens
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.learner.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own for the CPU is compiled first; torch's is fused too
        "bf16": {"enabled": config.model.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": None,
    }
