"""What a dry run imports, beside the command: importing this module takes seconds."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

import unisd_rl.base_model.corpus
import unisd_rl.driver.dry_run
import unisd_rl.models.check

__all__ = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "Qwen2Tokenizer", "unisd_rl"]
