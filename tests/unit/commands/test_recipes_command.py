"""`unisd-rl recipes`: what each recipe is, in a line, and what it costs, from its own settings."""

import pytest

from unisd_rl.__main__ import main
from unisd_rl.config.help import first_sentence, recipe_files
from unisd_rl.config.load import RECIPES, SETUPS, load_recipe
from unisd_rl.recipes import reads_without_gradient, relative_cost

FILES = [*recipe_files(RECIPES), *recipe_files(SETUPS)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_first_line_of_a_recipe_says_what_it_is_in_one_sentence(path):
    said = first_sentence(path)
    assert path.read_text().startswith("# ")
    assert 30 < len(said) <= 90
    assert said.endswith(".")


@pytest.mark.parametrize(
    "recipe,passes",
    [
        ("sft", 0),  # no teacher
        ("ema", 1),  # the demonstration
        ("contrastive", 2),  # and the wrong one
        ("agreement_token", 4),  # and three auxiliary views
        ("unisd_star", 6),  # the demonstration, three views, the wrong one, and the student for the quantile clip
    ],
)
def test_what_a_recipe_costs_is_counted_from_what_its_terms_read(recipe, passes):
    config = load_recipe(recipe)
    assert reads_without_gradient(config) == passes
    assert relative_cost(config) == (3 + passes) / 3  # with gradient: a forward pass, and a backward one worth two


def test_every_recipe_and_set_up_is_listed_with_its_costs(capsys):
    assert main(["recipes"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines.keys() >= {path.stem for path in FILES}
    assert "1 + 6" in lines["unisd_star"]
    assert "50% policy, 50% gold" in lines["gkd"]
    assert lines["sft"].split()[1:7] == ["gold", "1", "+", "0", "1.0", "x"]


def test_one_recipe_is_printed_with_its_path(capsys):
    assert main(["recipes", "ema"]) == 0
    said = capsys.readouterr().out
    assert said == f"# {RECIPES / 'ema.toml'}\n{(RECIPES / 'ema.toml').read_text()}"


def test_a_recipe_that_is_not_there_is_refused(capsys):
    assert main(["recipes", "emma"]) == 2
    assert "did you mean ema?" in capsys.readouterr().err
