"""One rank of the learner. `step` is the algorithm:

```
 forward_backward
   score      the views that a term reads, no gradient           teacher (none, if none is read)
   diverge    only for a quantile clip, no gradient              student, teacher's head
   terms      one coefficient per token: all ranks meet here     objective.step_terms
   gradient   per micro-batch: forward, objective, backward      student
              (a single one forms `diverge` and `terms` itself, between its forward and its objective)
 optim_step
   step       clip, AdamW                                        DeepSpeed
   EMA        the teacher averages the student in                Teacher.update_ema
```

Ranks are equal and every public method is a collective: all of them call it, in one order.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from learner.batch import Inputs, PackingConfig, Pass, RankBatch, collate, without_truncated
from learner.checkpoint import STATE, full_weights, published_weights, save_checkpoint, weights_layout
from learner.checks import check_finite, check_teacher_logprobs, current_tokens, logprob_mismatch, token_staleness
from learner.layout import choose_layout
from learner.model import HiddenStateFn, load_model
from learner.plan import scoring_plan
from learner.schedule import learning_rate
from learner.scoring import Scorer, Scores, agreed_passes, divergences, student_divergences
from learner.sharding import all_gather_ragged, all_reduce_max
from learner.signals import sampled_entropies, signal_metrics
from learner.step_timer import StepTimer
from learner.teacher import NO_UPDATE, student_and_teacher
from learner.token_samples import sampled_tokens, token_samples
from learner.training_state import Archive, restore, training_state
from unisd_rl.config import Config
from unisd_rl.metrics import (
    BatchCounts,
    LossMetrics,
    MismatchMetrics,
    OptimizerMetrics,
    PolicyMetrics,
    SignalMetrics,
    StepMetrics,
    WeightMetrics,
)
from unisd_rl.models.load import companions
from unisd_rl.objective.divergence import NO_WEIGHTS
from unisd_rl.objective.kernels.chunk_logits import HiddenStates
from unisd_rl.objective.kernels.chunked import token_entropies, token_logprobs
from unisd_rl.objective.kernels.head import Head
from unisd_rl.objective.unisd import MicroReport, StepTerms, loss_metrics, micro_batch_loss, no_loss, step_terms
from unisd_rl.seeds import derive_seed
from unisd_rl.storage.checkpoints import RunState
from unisd_rl.transport.rollouts.schema import decode
from unisd_rl.transport.weights.adapter import peft_config
from unisd_rl.types import Logprobs, PolicyVersion, Rollout, Tokens, TokenSample


@dataclass(frozen=True, slots=True)
class MicroBatchResult:
    """One micro-batch: what the objective measured, and log-probs as the rollout engine defines them."""

    terms: StepTerms
    """Of the whole step."""
    report: MicroReport
    sampling_logprob_N: Tensor
    """The student's, at the temperature of the rollouts."""
    entropy_n: Tensor
    """The student's, of some tokens."""
    sampled_entropy_n: Tensor
    """Of the tokens of `token_samples`, at the objective's temperature."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step before the weights change. All but `timer` is the same on every rank."""

    version: int
    loss: LossMetrics
    weights: WeightMetrics
    counts: BatchCounts
    policy: PolicyMetrics
    mismatch: MismatchMetrics
    signals: SignalMetrics
    timer: StepTimer


class Learner:
    """Student, teacher and objective of one rank; needs an initialised process group."""

    def __init__(self, config: Config, model_path: Path, device: torch.device) -> None:
        self._config, self._device = config, device
        self._settings, plan = config.objective_settings, scoring_plan(config)
        self._companions = companions(model_path, config.model.dtype)  # now: a checkpoint must not find them unreadable
        lora = config.model.lora
        self._adapter_config = None if lora is None else peft_config(lora, str(model_path))
        self._drops_out = lora is not None and lora.dropout > 0.0
        lm = load_model(model_path, config.model.dtype).to(device)
        layout = choose_layout(lm.model, config.best_layout)
        self.packing = PackingConfig(layout, config.learner.micro_batch_tokens, config.learner.scoring_budget)
        self.student, self.teacher = student_and_teacher(lm, config, plan.needs_teacher)
        self._vocabulary = lm.model.config.get_text_config().vocab_size
        self.scorer = Scorer(self.teacher, plan, self._settings)
        self.samples: list[TokenSample] = []
        """Of the last step: what was measured at each token of the rollouts that were to be sampled."""
        self.timer = StepTimer()
        """Of the last step."""

    def step(self, data: bytes, version: int, lineage: int = 0, sampled: frozenset[int] = frozenset()) -> StepMetrics:
        """Train version `version` of `lineage` on this rank's rollouts (an IPC stream of them) into the next.

        `samples` then holds those of the rollouts with the numbers `sampled` that are on this rank.

        Raises:
            RunFailed: one of the checks of `checks.py` fired.
        """
        return self.optim_step(self.forward_backward(decode(data), version, lineage, sampled))

    def forward_backward(
        self, rollouts: list[Rollout], version: int, lineage: int = 0, sampled: frozenset[int] = frozenset()
    ) -> StepResult:
        """Everything of a step before the weights change; afterwards the student's parameters have their gradient."""
        self.samples = []
        torch.manual_seed(derive_seed(self._config.run.seed, "dropout", version, dist.get_rank()))
        truncated_share = self._truncated_share(rollouts)
        if self._config.learner.mask_truncated_completions:
            rollouts = without_truncated(rollouts)
        batch, timer = RankBatch(rollouts, self._device, self.packing), StepTimer()
        if not any(all_reduce_max([batch.tokens], self._device)):
            policy, mismatch = self._policy_metrics(batch, [], PolicyVersion(lineage, version), truncated_share)
            signals = signal_metrics(batch.rollouts, (), (), self._device)
            return StepResult(version, no_loss(), NO_WEIGHTS, BatchCounts(0, 0, 0), policy, mismatch, signals, timer)
        with timer.measure_views():
            scores = self.scorer.score(batch, timer)
        if self.teacher:
            check_teacher_logprobs(all_gather_ragged(scores.probe_n), self._vocabulary)
        with self.teacher.head() if self.teacher else nullcontext() as teacher_head:
            passes, terms = agreed_passes(batch.gradient_passes(), batch), None
            if not (self._settings.needs_divergence_pass and len(passes) == 1 and not self._drops_out):
                terms = self._terms_before_gradient(batch, scores, teacher_head, timer)
            with timer.measure("gradient"):
                sampled_N = sampled_tokens(batch, sampled)
                micro_batches = self._gradient(batch, passes, scores, teacher_head, terms, sampled_N, timer)
            terms = micro_batches[0].terms
        if sampled:
            values = ((one.report, one.sampled_entropy_n) for one in micro_batches)
            self.samples = token_samples(batch, sampled, sampled_N, scores.inputs, values)
        reports = [micro_batch.report for micro_batch in micro_batches]
        loss = loss_metrics(terms, reports, all_gather_ragged, self._device)
        check_finite("loss", loss.loss)
        policy, mismatch = self._policy_metrics(batch, micro_batches, PolicyVersion(lineage, version), truncated_share)
        entropies = [micro_batch.entropy_n for micro_batch in micro_batches]
        signals = signal_metrics(batch.rollouts, entropies, scores.entropies, self._device)
        return StepResult(version, loss, terms.weights, terms.counts, policy, mismatch, signals, timer)

    def optim_step(self, result: StepResult) -> StepMetrics:
        """Take the optimiser's step on the accumulated gradient, then update the teacher's average.

        A step without tokens changes nothing: on a gradient of zeros AdamW would go on by its momentum.
        """
        learner = self._config.learner
        schedule = (learner.learning_rate, learner.warmup_fraction, learner.warmup_from_zero)
        rate = learning_rate(result.version, self._config.run.schedule_steps(result.version), *schedule)
        self.timer = result.timer
        with result.timer.measure("update"):
            norm, teacher = 0.0, NO_UPDATE
            if result.counts.tokens:
                norm = self.student.optim_step(rate)
                check_finite("gradient norm", norm)
                teacher = self.teacher.update_ema(self.student, result.version + 1) if self.teacher else NO_UPDATE
        return StepMetrics(
            step=result.version,
            loss=result.loss,
            weights=result.weights,
            counts=result.counts,
            policy=result.policy,
            mismatch=result.mismatch,
            signals=result.signals,
            optimizer=OptimizerMetrics(norm, rate),
            teacher=teacher,
            timing=result.timer.timing(self._device),
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """What is published to the rollout actors: the student's weights, or its adapter; iterate to the end."""
        return published_weights(self.student, self._config.model.lora)

    def logprobs(self, prompt: Tokens, completion: Tokens) -> Logprobs:
        """The student's float32 log-prob of each completion token at the sampling temperature."""
        inputs = collate([(prompt, completion)], self.packing.layout, self._device)
        logprob_N = self.student.forward(inputs, partial(self._sampling_logprobs, targets_N=inputs.targets_N))
        return logprob_N.cpu().numpy()

    def save(self, path: Path, write: bool, run_state: RunState | None) -> None:
        """Save a folder that `AutoModelForCausalLM.from_pretrained` loads and, with a `run_state`, training resumes
        from, on any number of ranks and any ZeRO stage; the rank with `write` writes it.

        Raises:
            CheckpointNotWritten: the disk did not take it.
        """
        lora, folder = self._config.model.lora, path if write else None
        weights, layout = full_weights(self.student, lora), weights_layout(self.student, lora)
        adapter = iter(()) if lora is None else self.weights()
        state = training_state(self.student, self.teacher) if run_state else iter(())
        save_checkpoint(weights, layout, adapter, state, self._companions, self._adapter_config, folder, run_state)

    def load(self, path: Path, version: int) -> None:
        """Resume from what `save` left after step `version - 1`; the caller has verified its files.

        Raises:
            RunFailed: it is of another model.
        """
        empty_inputs = collate([], self.packing.layout, self._device)
        archive = Archive(path / STATE)
        restore(self.student, self.teacher, archive.tensor, archive.optimizer_steps(version), empty_inputs)

    def close(self) -> None:
        """Let go of DeepSpeed's engines; another learner may then be built in this process."""
        self.student.close()
        if self.teacher:
            self.teacher.close()

    def _terms_before_gradient(
        self, batch: RankBatch, scores: Scores, teacher_head: Head | None, timer: StepTimer
    ) -> StepTerms:
        """The terms of a step; a quantile clip reads the student's divergences of all tokens in passes of their own."""
        divergence_N = None
        if self._settings.needs_divergence_pass:
            assert scores.primary_NH is not None, "a divergence has a primary view"
            of_views = (scores.primary_NH, teacher_head, self._settings)
            with timer.measure("divergence"):
                divergence_N = student_divergences(batch, self.student, *of_views, timer)
        return step_terms(replace(scores.inputs, divergence_N=divergence_N), self._settings, all_gather_ragged)

    def _gradient(
        self,
        batch: RankBatch,
        passes: Sequence[Pass],
        scores: Scores,
        teacher_head: Head | None,
        terms: StepTerms | None,
        sampled_N: NDArray[np.bool_],
        timer: StepTimer,
    ) -> list[MicroBatchResult]:
        """The gradient passes; the batch is in their order, so each pass is a span of tokens."""
        micro_batches, start = list[MicroBatchResult](), 0
        for index, one in enumerate(passes):
            inputs = batch.collate(one)
            span = slice(start, start + len(inputs.targets_N))
            on_hidden = self._objective(inputs, scores, teacher_head, terms, span, np.flatnonzero(sampled_N[span]))
            last = index == len(passes) - 1
            micro_batches.append(self.student.forward_backward(inputs, on_hidden, last))
            timer.count_pass(inputs)
            timer.count_tokens("gradient", inputs.tokens)
            start = span.stop
        return micro_batches

    def _objective(
        self,
        inputs: Inputs,
        scores: Scores,
        teacher_head: Head | None,
        known_terms: StepTerms | None,
        span: slice,
        sampled_n: NDArray[np.int64],
    ) -> HiddenStateFn[tuple[Tensor, MicroBatchResult]]:
        """What runs inside the student's forward pass, where its hidden states and head exist.

        `known_terms` None: this pass reads all tokens of the step, and forms the terms from their divergences.
        """
        teacher_NH = None if scores.primary_NH is None else scores.primary_NH[span]
        negative_NH = None if scores.negative_NH is None else scores.negative_NH[span]
        targets_N, one_temperature = inputs.targets_N, self._config.rollout.temperature == self._settings.temperature

        def on_hidden(hidden_NH: Tensor, head: Head) -> tuple[Tensor, MicroBatchResult]:
            states, terms = HiddenStates(hidden_NH, teacher_NH, negative_NH), known_terms
            if terms is None:
                assert teacher_NH is not None, "a divergence has a primary view"
                divergence_N = divergences(hidden_NH, head, teacher_NH, teacher_head, self._settings)
                inputs_N = replace(scores.inputs, divergence_N=divergence_N)
                terms = step_terms(inputs_N, self._settings, all_gather_ragged)
            of_pass = terms.slice(span.start, span.stop)
            loss, report = micro_batch_loss(states, head, teacher_head or head, targets_N, of_pass, self._settings)
            settings, logprob_N = self._settings, report.student_logprob_N
            entropy_n = sampled_entropies(hidden_NH, head, settings.temperature)
            sampled_nH = hidden_NH.detach()[torch.from_numpy(sampled_n)]
            of_samples_n = token_entropies(sampled_nH, head, settings.temperature, settings.chunk_tokens)
            if not one_temperature:  # else the objective has them already
                logprob_N = self._sampling_logprobs(hidden_NH, head, targets_N)
            return loss, MicroBatchResult(terms, report, logprob_N, entropy_n, of_samples_n)

        return on_hidden

    def _sampling_logprobs(self, hidden_NH: Tensor, head: Head, targets_N: Tensor) -> Tensor:
        temperature, chunk = self._config.rollout.temperature, self._settings.chunk_tokens
        return token_logprobs(hidden_NH, head, targets_N, temperature, chunk)

    def _truncated_share(self, rollouts: list[Rollout]) -> float:
        """Of the completions of all ranks. A collective."""
        flags = [float(rollout.truncated) for rollout in rollouts]
        return float(all_gather_ragged(torch.tensor(flags, dtype=torch.float64, device=self._device)).mean())

    def _policy_metrics(
        self,
        batch: RankBatch,
        micro_batches: list[MicroBatchResult],
        version: PolicyVersion,
        truncated_share: float,
    ) -> tuple[PolicyMetrics, MismatchMetrics]:
        staleness = all_gather_ragged(token_staleness(batch.rollouts, version.number, self._device))
        nothing = torch.empty(0, device=self._device)
        learner_N = torch.cat([nothing, *(micro_batch.sampling_logprob_N for micro_batch in micro_batches)])
        engine_N, on_policy_N = current_tokens(batch.rollouts, version, self._device)
        # Truncated sampling renormalises the engine's log-probs, dropout blurs the learner's: nothing to compare.
        if self._config.rollout.truncated or self._drops_out:
            on_policy_N = torch.zeros_like(on_policy_N)
        tolerance = self._config.logprob_tolerance
        policy = PolicyMetrics(
            staleness_max=float(staleness.max()) if staleness.numel() else math.nan,
            staleness_mean=float(staleness.mean()) if staleness.numel() else math.nan,
            truncated_share=truncated_share,
        )
        return policy, logprob_mismatch(engine_N[on_policy_N], learner_N[on_policy_N], tolerance)
