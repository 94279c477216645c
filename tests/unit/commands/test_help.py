"""`--help` is two screens, `--help SECTION` has each member's fields, and a misspelt key is answered."""

import re
import subprocess

import pytest

from tests.fakes.commands import command
from unisd_rl import run
from unisd_rl.__main__ import COMMANDS, main
from unisd_rl.cli import exit_code
from unisd_rl.completion import OPTIONS, script
from unisd_rl.config import Config
from unisd_rl.config.fields import field_names
from unisd_rl.config.help import WIDTH, recipe_files, section_help
from unisd_rl.config.load import RECIPES, SETUPS
from unisd_rl.errors import UserError

TWO_SCREENS, COLUMNS = 64, 120


def shown(program, *arguments):
    ended = command(program, *arguments)
    assert (ended.code, ended.errors, ended.heavy) == (0, "", frozenset())
    return ended.output


def test_the_help_of_all_commands_fits_two_screens_and_names_commands_recipes_sections_and_examples(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert len(lines) <= TWO_SCREENS
    assert max(map(len, lines)) <= COLUMNS
    recipes = [path.stem for folder in (RECIPES, SETUPS) for path in recipe_files(folder)]
    for name in (*COMMANDS, *recipes, *Config.model_fields):
        assert re.search(rf"^  {name}  +\S", said, flags=re.MULTILINE), name
    assert said.partition("Examples:")[2].count("python -m unisd_rl.run") == 3


@pytest.mark.parametrize("program", ["unisd_rl.run", "unisd_rl.prepare"])
def test_the_help_of_a_command_with_fields_fits_two_screens(program):
    said = shown(program, "--help")
    assert len(said.splitlines()) <= TWO_SCREENS
    assert "--run.steps" in said
    assert "--rollout.max_staleness" not in said


def test_the_help_of_a_section_shows_each_member_with_its_own_fields():
    said = section_help("contexts.auxiliary")
    members = re.split(r"^contexts.auxiliary with type = ", said, flags=re.MULTILINE)[1:]
    fields = {text.split(":")[0]: set(re.findall(r"--contexts.auxiliary.(\w+)", text)) for text in members}
    assert fields["random"] == {"views"}
    assert fields["retrieval"] == {"views", "model"}
    assert fields["induction"] == {
        "views", "demonstrations", "instructions", "temperature", "max_prompt_tokens", "max_tokens",
    }  # fmt: skip


def test_the_help_of_all_sections_has_every_field_but_those_that_choose_a_kind():
    said = shown("unisd_rl.run", "--help-all")
    listed = set(re.findall(r"^  --([\w.]+)", said, flags=re.MULTILINE))
    missing = {name for name in field_names() if "." in name} - listed
    assert {name.rpartition(".")[2] for name in missing} <= {"type", "level", "signal"}
    assert max(map(len, said.splitlines())) <= WIDTH + 20


def test_the_help_of_a_field_says_its_range_its_default_and_what_it_is():
    assert shown("unisd_rl.run", "--help", "run.steps") == (
        "  --run.steps  integer, >= 1 (40)\n      Optimiser steps. Absent where epochs is given.\n"
    )


def test_the_other_commands_show_sections_too():
    for program in ("unisd_rl.evaluate", "unisd_rl.replay"):
        assert "--weights.publish_every" in shown(program, "--help", "weights")


@pytest.mark.parametrize(
    "arguments,meant",
    [
        (["--run.stepz", "3"], "did you mean --run.steps?"),
        (["--steps", "3"], "did you mean --run.steps?"),
        (["--learner.max_staleness", "3"], "did you mean --rollout.max_staleness?"),
        (["--dryrun"], "did you mean --dry-run?"),
        (["--help", "rolout"], "did you mean rollout?"),
        (["unisd_sta"], "did you mean unisd_star?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_one_that_resembles_it(arguments, meant, capsys):
    assert exit_code(run._run, arguments) == 2
    assert meant in capsys.readouterr().err


def test_a_misspelt_key_of_a_recipe_too(tmp_path, capsys):
    (tmp_path / "my.toml").write_text("[learner]\nlearning_rat = 1e-5\n")
    assert exit_code(run._run, ["ema", str(tmp_path / "my.toml")]) == 2
    assert "unknown key learner.learning_rat; did you mean learner.learning_rate?" in capsys.readouterr().err


def test_a_word_that_resembles_none_is_answered_with_none(capsys):
    assert exit_code(run._run, ["--zebra", "3"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_there_is_no_help_on_what_is_not_there():
    with pytest.raises(UserError, match="no such section or field; sections: run, model"):
        section_help("zebra")


def completed(*words):
    """What bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _unisd_rl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", f"{script()}\n{ask}"], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_commands_recipes_fields_values_and_sections():
    assert completed("unisd-rl", "pre") == ["prepare"]
    assert completed("unisd-rl", "run", "agreement_t") == ["agreement_token"]
    assert completed("unisd-rl", "run", "ema", "--rollout.max_s") == ["--rollout.max_staleness"]
    assert completed("unisd-rl", "run", "--rollout.engine.type", "") == ["vllm", "transformers"]
    assert completed("unisd-rl", "run", "--weights.checksum", "t") == ["true"]
    assert completed("unisd-rl", "run", "--help", "rol") == ["rollout"]
    assert completed("unisd-rl", "replay", "runs/a", "--ch") == ["--check"]
    assert completed("unisd-rl", "scale", "runs/a", "--run.st") == []


def test_the_shell_knows_every_command_and_its_options(capsys):
    assert list(OPTIONS) == list(COMMANDS)
    for name in set(COMMANDS) - {"run", "prepare"}:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        said = capsys.readouterr().out
        options = set(re.findall(r"^  (?:-\w[^,]*, )?(--[\w-]+)", said, flags=re.MULTILINE))
        assert options - {"--help", "--help-all"} == set(OPTIONS[name].split()), name
