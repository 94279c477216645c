"""Real DeepSpeed: a step is the same step whether its sequences are read as a tree, packed or padded.

Several answers to a problem, views that begin alike; on one rank and on two, in every ZeRO stage that differs, with all
weights and with LoRA, for each family of models.
"""

from functools import cache
from itertools import product

import pytest

from tests.fakes.families import save_family
from tests.fakes.learner_findings import Found, relative
from tests.fakes.learner_rig import ALL_FIVE, VOCABULARY, Case, learner_config, make_sharing_rollouts
from unisd_rl.models.load import write_text_decoder

LAYOUTS = ("tree", "packed", "padded")
STAGES = (0, 2, 3)
KINDS = {"full": {}, "lora": {"lora": {"rank": 4, "alpha": 8}}}
SMOOTH = {name: section for name, section in ALL_FIVE.items() if name not in ("clipping", "contrastive")}
"""For the second step, which a LoRA needs so that all its factors have a gradient: at the edge of a clip or a hinge
rounding is not all that differs."""
MODELS = ("qwen2", "qwen3", "llama", "gemma3")
WINDOW = 12
"""Of gemma3's sliding attention."""
ROLLOUTS = make_sharing_rollouts()
SHARDS = {1: (ROLLOUTS,), 2: (ROLLOUTS[:7], ROLLOUTS[7:])}
SEVERAL_PASSES, ONE_PASS = 70, 10_000
BRIEF = [("qwen2", layout, stage, kind) for layout in LAYOUTS for stage in (0, 3) for kind in KINDS if layout == "tree"]
BRIEF += [("qwen2", layout, 0, kind) for layout in ("packed", "padded") for kind in KINDS]
BRIEF += [("gemma3", layout, 0, "full") for layout in LAYOUTS]
"""(model, layout, stage, kind) of the default tier."""
REST = [each for each in product(MODELS, LAYOUTS, STAGES, KINDS) if each not in BRIEF]


def case(model, layout, stage, kind, path, ranks, tokens=SEVERAL_PASSES):
    learner = {"zero_stage": stage, "micro_batch_tokens": tokens, "ranks": ranks, "layout": layout}
    objective = SMOOTH if kind == "lora" else ALL_FIVE
    config = learner_config(learner=learner, model=KINDS[kind], objective=objective)
    steps = 2 if kind == "lora" else 1
    return Case(f"{model} {layout} {stage} {kind} {tokens}", config, path, SHARDS[ranks], steps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


@pytest.fixture(scope="module")
def models(folder):
    paths = {name: save_family(name, folder / name) for name in MODELS}
    write_text_decoder(paths["gemma3"], folder / "gemma3 text")
    return paths | {"gemma3": folder / "gemma3 text"}


def cases(models, chosen, ranks):
    return [case(*each, models[each[0]], ranks) for each in chosen]


@pytest.fixture(scope="module")
def brief(folder, models):
    whole = [case("qwen2", layout, 0, "full", models["qwen2"], 1, ONE_PASS) for layout in LAYOUTS]
    one = Found(folder / "brief 1", [*cases(models, BRIEF, 1), *whole], ranks=1)
    return {1: one, 2: Found(folder / "brief 2", cases(models, BRIEF, 2), ranks=2)}


@pytest.fixture(scope="module")
def rest(folder, models):
    @cache
    def of(name):
        chosen = [each for each in REST if each[0] == name]
        return {ranks: Found(folder / f"{name} {ranks}", cases(models, chosen, ranks), ranks) for ranks in SHARDS}

    return of


def assert_the_same_step(found, reference, model, layout, stage, kind, ranks):
    one = found[ranks][f"{model} {layout} {stage} {kind} {SEVERAL_PASSES}"]
    other = reference[1][f"{model} padded 0 {kind} {SEVERAL_PASSES}"]
    for step in range(len(other["reports"])):
        assert relative(one[f"gradient {step}"], other[f"gradient {step}"]) < 1e-5
        assert one["reports"][step]["loss"] == pytest.approx(other["reports"][step]["loss"], rel=1e-5)


@pytest.mark.parametrize("ranks", SHARDS)
@pytest.mark.parametrize("model, layout, stage, kind", BRIEF)
def test_every_layout_has_the_same_gradient(brief, model, layout, stage, kind, ranks):
    assert_the_same_step(brief, brief, model, layout, stage, kind, ranks)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", SHARDS)
@pytest.mark.parametrize("model, layout, stage, kind", REST)
def test_every_family_and_stage_has_the_same_gradient_in_every_layout(brief, rest, model, layout, stage, kind, ranks):
    reference = brief if (model, "padded", 0, kind) in BRIEF else rest(model)
    assert_the_same_step(rest(model), reference, model, layout, stage, kind, ranks)


def prefixes(pairs):
    """Every beginning of the sequences that are read of these (context, completion) pairs."""
    sequences = [(*context.tolist(), *completion[:-1].tolist()) for context, completion in pairs if len(completion)]
    return {sequence[: length + 1] for sequence in sequences for length in range(len(sequence))}


def test_what_sequences_begin_with_is_read_once_and_counted_once(brief):
    reports = {layout: brief[1][f"qwen2 {layout} 0 full {ONE_PASS}"]["reports"][0] for layout in LAYOUTS}
    views = prefixes((view.tokens, one.completion_tokens) for one in ROLLOUTS for view in one.views)
    students = prefixes((one.prompt_tokens, one.completion_tokens) for one in ROLLOUTS)
    read = reports["tree"]
    assert sum(read[f"{view}_tokens"] for view in ("primary", "auxiliary", "negative")) == len(views)
    assert read["gradient_tokens"] == len(students)
    assert read["padding_share"] == 0
    for name in ("auxiliary_tokens", "gradient_tokens"):
        assert read[name] < 0.7 * reports["packed"][name]
        assert reports["packed"][name] == reports["padded"][name]
    assert [reports[layout]["forward_passes"] for layout in LAYOUTS] == [2, 2, 2]


def test_a_budget_of_tokens_holds_more_sequences_that_share(brief):
    passes = {layout: brief[1][f"qwen2 {layout} 0 full {SEVERAL_PASSES}"]["reports"][0] for layout in LAYOUTS}
    assert passes["tree"]["forward_passes"] < 0.7 * passes["packed"]["forward_passes"]


def test_paths_are_longer_than_the_window():
    assert min(len(one.prompt_tokens) for one in ROLLOUTS) > WINDOW
    assert max(int(view.tokens.max()) for one in ROLLOUTS for view in one.views) < VOCABULARY
