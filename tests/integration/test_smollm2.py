"""A small real model, SmolLM2-135M-Instruct, from the package that holds it to a checkpoint (`examples/smollm2.py`).

Engine starts of this file: one of vLLM, in the slow tier. Skipped where the package cannot be had.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.fakes.finished import (
    REPOSITORY,
    TIMEOUT_S,
    assert_accuracy_is_what_its_items_say,
    assert_every_prompt_exactly_once_and_in_order,
    run_job,
)

pytestmark = [pytest.mark.slow, pytest.mark.engine]
STEPS, BATCH = 2, 4
OPTIONS = (
    "--run.steps", str(STEPS), "--learner.batch_size", str(BATCH), "--learner.learning_rate", "2e-5",
    "--task.type", "multiples", "--task.train_examples", "32", "--task.eval_examples", "8",
    "--rollout.max_completion_tokens", "32", "--run.step_timeout_s", "1200",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder that the script writes from the packages it names, as its first lines say."""
    script, packages = REPOSITORY / "examples" / "smollm2.py", tmp_path_factory.mktemp("packages")
    (install,) = re.findall(r"^    pip (install .*)$", script.read_text(), re.MULTILINE)
    words = install.replace("build/smollm2", str(packages)).split()
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    installed = subprocess.run([*pip, *words], capture_output=True, text=True, timeout=TIMEOUT_S)
    if installed.returncode:
        pytest.skip(f"pip does not get the packages: {installed.stderr.strip()[-300:]}")
    folder, environment = tmp_path_factory.mktemp("model") / "smollm2", {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        [sys.executable, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_the_folder_is_the_model_with_its_template_and_its_default_system_turn(model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        answer = loaded.eval().generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_it_trains_with_vllm_and_its_checkpoint_loads(model, tmp_path):
    from transformers import AutoModelForCausalLM

    run = run_job(tmp_path, "--model.path", str(model), *OPTIONS)
    assert_every_prompt_exactly_once_and_in_order(run, STEPS, BATCH)
    assert_accuracy_is_what_its_items_say(run)
    assert run.summary["engine"] == "vllm"
    gaps = [row["logprob_mismatch_max"] for row in run.metrics if row["logprob_mismatch_max"] is not None]
    assert gaps
    assert max(gaps) < 1e-2
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (model, run.checkpoint(STEPS)))
    assert before.keys() == after.keys()
    moved = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < moved < 1e-3  # AdamW's first steps are of the size of the learning rate
