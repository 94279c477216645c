"""What a dry run imports and makes, beside the command: importing this module takes seconds."""

import bm25s
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

import unisd_rl.driver.dry_run
import unisd_rl.models.check
from unisd_rl.base_model import tokenizer_and_digest
from unisd_rl.base_model.recipe import BaseModelRecipe

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "Qwen2Tokenizer", "bm25s", "unisd_rl"]

tokenizer_and_digest(BaseModelRecipe(seed=0))
