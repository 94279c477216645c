"""TRL's SDFT trainer on the problems of a job file, in the Python that has TRL: `python trl_sdft.py JOB.json`.

Imports nothing of this project: TRL's environment need not have it. Writes OUT/ended.txt, when training began and each
step ended, and the trained model beside it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.sdft import SDFTConfig, SDFTTrainer


class StepTimes(TrainerCallback):
    """When training began and each step ended (seconds of one clock), a line each as they end."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._write()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._write()

    def _write(self) -> None:
        with self._path.open("a") as file:
            file.write(f"{time.perf_counter()}\n")


def train(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    out = Path(job["out"])
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left", truncation_side="left")
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation=job["attention"]
    )
    arguments = SDFTConfig(
        output_dir=str(out),
        seed=job["seed"],
        use_cpu=True,
        bf16=False,
        max_steps=job["steps"],
        per_device_train_batch_size=job["micro_batch"],
        gradient_accumulation_steps=job["batch"] // job["micro_batch"],
        gradient_checkpointing=False,
        num_generations=job["answers_per_prompt"],
        shuffle_dataset=False,
        max_prompt_length=job["max_prompt_tokens"],
        max_completion_length=job["max_completion_tokens"],
        temperature=job["temperature"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=round(job["warmup_fraction"] * job["steps"]),
        weight_decay=0.0,
        max_grad_norm=job["max_grad_norm"],
        distillation_mode="full_logits",
        distillation_alpha=job["alpha"],
        distillation_is_clip=None,
        teacher_model_kind="ema",
        teacher_update_rate=1.0 - job["beta"],
        teacher_prompt_template=job["template"],
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        dataloader_pin_memory=False,
    )
    trainer = SDFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(job["problems"]),
        processing_class=tokenizer,
        callbacks=[StepTimes(out / "ended.txt")],
    )
    trainer.train()
    trainer.save_model(str(out / "model"))
    tokenizer.save_pretrained(out / "model")


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text()))
