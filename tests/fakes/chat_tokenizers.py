"""Small tokenizers with chat templates, made in a moment: the kinds that models ship with, one to a folder."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BOS_BY_TEMPLATE = "{{ bos_token }}" + TURNS
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content | trim }} <|im_end|>{% endif %}"
    "{% endfor %}"
)
ENDS_IN_A_SPECIAL_TOKEN = (
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
ADDS_A_SYSTEM_TURN = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}" + TURNS
REFUSES_A_SYSTEM_TURN = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TURNS
)
THINKS = TURNS.replace(
    "<|im_start|>assistant\n{% endif %}",
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)
TAKES_PARTS = TURNS.replace("{{ m.content }}", "{% for p in m.content %}{{ p.text }}{% endfor %}")
WRITES_THE_DATE = "<|im_start|>system\nToday: {{ strftime_now('%d %b %Y') }}<|im_end|>\n" + TURNS
ENDS_IN_PLAIN_TEXT = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LEAVES_THE_QUESTION_OUT = TURNS.replace("{{ m.content }}", "{{ m.text }}")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<s>", "<|pad|>", "<|other_end|>")


def byte_level() -> Any:
    """GPT-2's kind: every byte a token, no space added; a character of several bytes can be cut."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: index for index, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece(prepend: Callable[[Any], None]) -> Callable[[], Any]:
    """Llama 2's kind: a space is part of the token behind it, unknown characters are tokens of bytes."""

    def made() -> Any:
        from tokenizers import Tokenizer, models

        pieces = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *map(chr, range(33, 127)), "▁▁", "▁▁▁▁", "\n"]
        merges = [("▁", "▁"), ("▁▁", "▁▁")]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True))
        prepend(tokenizer)
        return tokenizer

    return made


def _before_every_text(tokenizer: Any) -> None:
    from tokenizers import decoders, normalizers

    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def _before_the_first_text(tokenizer: Any) -> None:
    from tokenizers import decoders, pre_tokenizers

    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first"), decoders.Fuse()]
    )


legacy_prefix_space = sentencepiece(_before_every_text)
"""A space before every stretch of text, also behind a special token."""
prefix_space = sentencepiece(_before_the_first_text)
"""A space before the first text only."""


@dataclass(frozen=True)
class ChatFolder:
    """The files of a model's folder that have to do with text; `save` writes them."""

    kind: Callable[[], Any] = byte_level
    template: str = TURNS
    special: dict[str, str] = field(default_factory=lambda: {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    adds_bos: bool = False
    generation: dict[str, Any] | None = None
    """generation_config.json."""
    config: dict[str, Any] | None = None
    """What config.json says beside the model's sizes."""
    added: Sequence[str] = ()
    """Tokens of the tokenizer that the model knows nothing of."""

    def save(self, folder: Path) -> Path:
        from tokenizers import AddedToken
        from tokenizers.processors import TemplateProcessing
        from transformers import LlamaConfig, PreTrainedTokenizerFast

        tokenizer = self.kind()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
        rows = tokenizer.get_vocab_size()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in self.added])
        if self.adds_bos:
            pieces = [("<s>", tokenizer.token_to_id("<s>"))]
            tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=pieces)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", **self.special)
        fast.chat_template = self.template
        fast.save_pretrained(str(folder))
        sizes = {"vocab_size": rows, "bos_token_id": None, "eos_token_id": None, "max_position_embeddings": 2048}
        # Beside some model types (qwen2) transformers takes no tokenizer but theirs.
        LlamaConfig(**{**sizes, **(self.config or {})}).save_pretrained(str(folder))
        if self.generation is not None:
            (folder / "generation_config.json").write_text(json.dumps(self.generation))
        return folder
