"""What a run in one process imports, beside the command: importing this module takes ten seconds."""

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # as a run sets it; else DeepSpeed looks for devices and says so

import bm25s
import scipy.stats
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

import actors.engines.transformers_engine
import learner.rank_process
import unisd_rl.driver.build
import unisd_rl.reporting.page
import unisd_rl.tracking.tensorboard
import unisd_rl.train

__all__ = [
    "AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "Qwen2Tokenizer", "actors", "bm25s", "learner", "scipy",
    "unisd_rl",
]  # fmt: skip
