"""Builds the engine that the configuration names."""

import sys
from pathlib import Path

from actors.engines.engine import EngineSpec, GroupShape, RolloutEngine
from actors.engines.transformers_engine import TransformersRolloutEngine
from actors.engines.vllm_engine import VllmRolloutEngine
from unisd_rl.cluster.cores import Cores
from unisd_rl.config import Config
from unisd_rl.config.rollout import TransformersEngine, VllmEngine
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.transport.weights.build import weight_transport


def build_engine(config: Config, cores: Cores, model_path: Path, tokenizer: ChatTokenizer) -> RolloutEngine:
    """An engine that is not started yet."""
    engine, rollout = config.rollout.engine, config.rollout
    spec = EngineSpec(
        model_path=model_path,
        dtype=config.model.dtype,
        cores=cores,
        # Preparation has checked that what is asked fits the model's positions; the limits may still allow more.
        max_model_len=min(engine.model_length(rollout.longest_request), tokenizer.limits.positions or sys.maxsize),
        concurrency=max(rollout.concurrency, config.evaluation.concurrency),
        stop_tokens=tokenizer.stop_tokens,
        verify=config.weights.checksum,
        seed=config.run.seed,
        adapter=config.model.lora,
        group=GroupShape(rollout.group_rows, rollout.max_prompt_tokens) if rollout.group_rows else None,
    )
    match engine:
        case TransformersEngine():
            return TransformersRolloutEngine(spec)
        case VllmEngine():
            loader = weight_transport(config).vllm_loader(model_path)
            return VllmRolloutEngine(spec, engine, loader, on_gpu=rollout.on_gpu, sleeps=config.turns_on_gpu)
