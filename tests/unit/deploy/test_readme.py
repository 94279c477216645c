"""deploy/README.md says what is: its files exist, its table is the arithmetic it states, and it holds no token."""

import re

import pytest

from tests.fakes.deployment import COMPOSE, DEPLOY, ROOT, console_blocks

README = (DEPLOY / "README.md").read_text()
MODELS = {  # parameters, layers, hidden, intermediate, vocabulary, key-value heads, head size
    "Qwen2.5-0.5B": (0.494e9, 24, 896, 4864, 151_936, 2, 64),
    "Qwen2.5-1.5B": (1.544e9, 28, 1536, 8960, 151_936, 2, 128),
    "Qwen2.5-7B": (7.616e9, 28, 3584, 18_944, 152_064, 4, 128),
}
TOKENS = 16_384


def test_every_file_it_names_exists():
    named = set(re.findall(r"(?:deploy/|docker-)[\w./-]+[\w]", README))
    assert len(named) > 5
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", MODELS)
def test_the_sizes_are_the_arithmetic_that_it_states(name):
    parameters, layers, hidden, inside, vocabulary, _, _ = MODELS[name]
    row = next(line for line in README.splitlines() if line.startswith(f"| {name} |"))
    told = [float(cell) for cell in row.strip("|").split("|")[2:]]
    activations = 2 * TOKENS * layers * hidden + 2 * TOKENS * (3 * inside + 10 * hidden)
    computed = [24 * parameters, 6 * parameters, 3 * parameters, 2 * parameters, activations, 4 * vocabulary * hidden]
    assert told == [round(size / 1e9, 1) for size in computed]


@pytest.mark.parametrize("name", MODELS)
def test_the_keys_and_values_of_a_token_are_what_it_says(name):
    _, layers, _, _, _, heads, size = MODELS[name]
    assert (
        f"{4 * layers * heads * size // 1024} KiB ({name.removeprefix('Qwen2.5-')}: {layers} x {heads} x {size})"
        in README
    )


def test_no_file_holds_a_token():
    files = [COMPOSE, ROOT / ".env", *(path for path in DEPLOY.rglob("*") if path.is_file())]
    long_secrets = re.compile(r"\b[0-9a-f]{32,}\b|auth_token:\s*\"?\w{16,}")
    assert [path for path in files if long_secrets.search(path.read_text())] == []


def test_sections_stand_in_the_order_of_size():
    headings = re.findall(r"^## (\d)\. ", README, flags=re.MULTILINE)
    assert headings == list("1234567")
    assert all(console_blocks(f"{number}. ") for number in headings)
