"""A byte-level BPE tokenizer of Qwen2's type, trained on the base model's own corpus.

Every byte is in its alphabet, so any text can be encoded and decoded again (up to Unicode's canonical
composition, NFC, which Qwen2 tokenizers apply); every digit is a token of its own, so that arithmetic
is done digit by digit. How text is cut before the merges is Qwen2's, and has to be: transformers gives
every model of type `qwen2` that cut when it loads it, whatever the saved file says.
"""

import json
from typing import TYPE_CHECKING

from unisd_rl.base_model.corpus import Corpus, Sample
from unisd_rl.base_model.recipe import BaseModelRecipe

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

PAD, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN}{{{{ message['role'] }}}}\n{{{{ message['content'] }}}}{END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN}assistant\n{{% endif %}}"
)
_TRAINING_BATCHES = 40


def corpus_text(recipe: BaseModelRecipe) -> list[str]:
    """The first batches of the corpus, turn by turn as the chat template has them."""
    corpus = Corpus(recipe)
    samples = [sample for _ in range(_TRAINING_BATCHES) for form in corpus.batch() for sample in form]
    return [turn for sample in samples for turn in _turns(sample)]


def train_tokenizer(recipe: BaseModelRecipe, text: list[str]) -> "Qwen2Tokenizer":
    """The tokenizer of a recipe: 256 bytes, three special tokens, and merges up to `recipe.vocabulary`."""
    from tokenizers import pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    untrained = Qwen2Tokenizer().backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, TURN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    untrained.train_from_iterator(text, trainer)
    trained = json.loads(untrained.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[(left, right) for left, right in trained["merges"]],
        unk_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        chat_template=CHAT_TEMPLATE,
        model_max_length=recipe.context,
    )


def _turns(sample: Sample) -> list[str]:
    return [*(f"{turn.role}\n{turn.content}" for turn in sample.chat), f"assistant\n{sample.begun}{sample.completion}"]
