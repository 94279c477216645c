"""What a run leaves of a user's own chats, taken elsewhere: `vllm serve` of the checkpoint, and of the base with the
adapter, answer as transformers does with the same files.

Engine starts of this file: `vllm serve` twice, in the slow tier.
"""

import json

import pytest
import torch

from tests.fakes.families import save_family
from tests.fakes.finished import run_job
from tests.fakes.vllm_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.engine]
STEPS, RANK = 2, 4
OPTIONS = (
    "unisd_star", "in_process", "--run.steps", str(STEPS), "--learner.batch_size", "4",
    "--learner.learning_rate", "1e-2", "--task.type", "jsonl", "--task.fields.messages", "messages",
    "--task.eval_examples", "4", "--rollout.max_prompt_tokens", "900", "--rollout.max_completion_tokens", "12",
    "--model.lora.rank", str(RANK),
)  # fmt: skip
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7 + 8?"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_family("qwen2", tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """The last checkpoint of a run on chats, under LoRA."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"{n} + {n + 1}?"},
            {"role": "assistant", "content": f"Answer: {2 * n + 1}"},
        ]}
        for n in range(24)
    ]  # fmt: skip
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (*OPTIONS, "--task.train", str(folder / "chats.jsonl"), "--model.path", str(base))
    return run_job(folder, *words).checkpoint(STEPS)


@pytest.fixture(scope="module")
def logprobs(saved):
    """Of tokens behind others, by the checkpoint in transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).eval()

    def of(reply):
        ids = torch.tensor([[*reply.prompt, *reply.tokens]])
        with torch.no_grad():
            logprob = torch.log_softmax(model(input_ids=ids).logits[0, len(reply.prompt) - 1 : -1], -1)
        return logprob.gather(-1, ids[0, len(reply.prompt) :, None])[:, 0].tolist()

    return of


def prompt_of(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_the_adapter_names_the_base_that_it_lies_on(saved, base):
    assert json.loads((saved / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_vllm_serves_the_checkpoint_as_it_is(saved, logprobs, tmp_path):
    with serving(tmp_path / "log", saved, "--served-model-name", "tuned") as server:
        reply = server.chat("tuned", CHAT, 12)
    assert reply.prompt == prompt_of(saved)  # its chat template came along
    assert reply.logprobs == pytest.approx(logprobs(reply), abs=1e-4)


def test_vllm_serves_the_adapter_on_the_base_that_it_names(saved, logprobs, tmp_path):
    adapter = saved / "adapter"
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    options = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"tuned={adapter}")
    with serving(tmp_path / "log", base, "--served-model-name", "plain", *options) as server:
        assert server.models() == ["plain", "tuned"]
        reply, plain = (server.chat(name, CHAT, 12) for name in ("tuned", "plain"))
    assert reply.logprobs == pytest.approx(logprobs(reply), abs=1e-4)
    assert max(abs(a - b) for a, b in zip(plain.logprobs, logprobs(plain), strict=True)) > 1e-2
