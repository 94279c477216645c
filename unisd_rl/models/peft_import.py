"""What this code uses of peft, imported without bitsandbytes.

peft imports bitsandbytes wherever it is installed, for layers with quantised weights, which no model has here. That
costs every learner seconds, and bitsandbytes says on the screen which kernels for inference it misses. It is installed
for `learner.optimizer` "adamw_8bit", which imports it itself (learner/optimizer.py).
"""

from unisd_rl.imports import hidden

__all__ = ["BaseTunerLayer", "LoraLinear", "PeftConfig", "inject_adapter_in_model"]

with hidden("bitsandbytes"):
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from peft.tuners.lora import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

    is_bnb_available(), is_bnb_4bit_available()  # peft asks again as it makes a layer, and remembers the first answer
