"""Which runs a grid has, and each one's configuration."""

from pathlib import Path

import pytest

from unisd_rl.ablation.grid import Cell, Grid, load_grid, settings_digest
from unisd_rl.config.load import load_recipe
from unisd_rl.errors import UserError

GRIDS = Path(__file__).parents[3] / "grids"
SMALL = {
    "name": "small",
    "setups": ["in_process"],
    "seeds": [0, 1],
    "wrong_demonstrations": [0.0, 0.3],
    "reference": "sdft",
    "fields": {"run": {"steps": 4}},
    "tasks": {"arithmetic": {"task": {"type": "arithmetic", "eval_examples": 8}}},
    "rows": {
        "sdft": {"recipe": "sdft", "seeds": [5]},
        "star": {"recipe": "unisd_star", "fields": {"learner": {"batch_size": 16}}},
        "less": {"recipe": "unisd_star", "without": ["objective.clipping"], "compared_with": "star"},
    },
}


def grid(**changes) -> Grid:
    return Grid.model_validate({**SMALL, **changes})


def test_every_row_task_share_and_seed_is_a_run():
    assert [cell.name for cell in grid().cells()] == [
        "sdft-arithmetic-0-5", "star-arithmetic-0-0", "star-arithmetic-0-1", "less-arithmetic-0-0",
        "less-arithmetic-0-1", "sdft-arithmetic-30-5", "star-arithmetic-30-0", "star-arithmetic-30-1",
        "less-arithmetic-30-0", "less-arithmetic-30-1",
    ]  # fmt: skip


def test_a_run_is_its_recipe_under_the_fields_of_the_grid_the_task_and_the_row(tmp_path):
    config = grid().config(Cell("star", "arithmetic", 0.3, 1), tmp_path)
    assert config.run_dir == tmp_path / "star-arithmetic-30-1"
    assert (config.run.seed, config.run.steps, config.run.placement) == (1, 4, "in_process")
    assert config.model.base_seed == 1, "one base model a seed, for all rows"
    assert (config.task.wrong_demonstrations, config.task.eval_examples) == (0.3, 8)
    assert config.learner.batch_size == 16
    assert config.objective == load_recipe("unisd_star").objective
    less = grid().config(Cell("less", "arithmetic", 0.0, 1), tmp_path)
    assert less.objective.clipping is None
    assert less.objective.agreement == config.objective.agreement


def test_a_row_that_evaluates_its_checkpoints_keeps_all_of_them_and_evaluates_nothing_between_steps(tmp_path):
    rows = {"sdft": {"recipe": "sdft"}, "ssd": {"recipe": "ssd", "evaluates_checkpoints": True}}
    fields = {"run": {"steps": 40, "checkpoint_every": 0}, "evaluation": {"every": 10}}
    config = grid(rows=rows, fields=fields).config(Cell("ssd", "arithmetic", 0.0, 1), tmp_path)
    assert (config.run.checkpoint_every, config.evaluation.every) == (10, None)
    assert config.run.keep_checkpoints >= 4


REPLAYED = {
    "sdft": {"recipe": "sdft"},
    "recording": {"recipe": "unisd_star", "evaluates_checkpoints": True},
    "replayed": {"recipe": "sdft", "replays": "recording", "on_policy": "sdft"},
}


def test_a_row_that_replays_evaluates_its_checkpoints(tmp_path):
    fields = {"run": {"steps": 40, "checkpoint_every": 0}, "evaluation": {"every": 10}}
    config = grid(rows=REPLAYED, fields=fields).config(Cell("replayed", "arithmetic", 0.0, 1), tmp_path)
    assert (config.run.checkpoint_every, config.evaluation.every) == (10, None)


def test_what_one_row_leaves_out_the_others_keep(tmp_path):
    rows = {
        "ssd": {"recipe": "ssd", "evaluates_checkpoints": True},
        "less": {"recipe": "sdft", "without": ["tracking.to"]},
        "sdft": {"recipe": "sdft"},
    }
    fields = {"run": {"steps": 40}, "evaluation": {"every": 10}, "tracking": {"to": []}}
    made = grid(rows=rows, fields=fields)
    configs = {cell.row: made.config(cell, tmp_path) for cell in made.cells()}
    assert [configs[row].evaluation.every for row in rows] == [None, 10, 10]
    assert [bool(configs[row].tracking.to) for row in rows] == [False, True, False]


def test_the_digest_is_of_what_decides_the_numbers_and_of_nothing_else(tmp_path):
    cell = Cell("star", "arithmetic", 0.0, 1)
    first = settings_digest(grid().config(cell, tmp_path))
    assert first == settings_digest(grid().config(cell, tmp_path / "elsewhere"))
    for changes in ({"run": {"steps": 5}}, {"evaluation": {"every": 2}}, {"learner": {"learning_rate": 1e-3}}):
        assert settings_digest(grid(fields=changes).config(cell, tmp_path)) != first
    same = {"run": {"steps": 4, "checkpoint_every": 3}}
    assert settings_digest(grid(fields=same).config(cell, tmp_path)) == first


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": "gkd"}, "reference = 'gkd' is no row of this grid; rows are: sdft, star, less"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"rows": {"sdft": {"recipe": "sdft", "compared_with": "x"}}}, "rows.sdft.compared_with = 'x' is no row"),
        ({"rows": {"sdft": {"recipe": "sdft", "replays": "x"}}}, "rows.sdft.replays = 'x' is no row"),
        ({"rows": {"sdft": {"recipe": "sdft", "on_policy": "x"}}}, "rows.sdft.on_policy = 'x' is no row"),
        (
            {"rows": {**REPLAYED, "again": {"recipe": "sdft", "replays": "replayed"}}},
            "rows.again.replays = 'replayed', which replays itself and has no rollouts: name the row 'recording'",
        ),
        ({"speed": 3}, "speed: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_is_no_grid_is_refused_with_the_field(changes, said, tmp_path):
    import tomli_w

    file = tmp_path / "grid.toml"
    file.write_text(tomli_w.dumps({**SMALL, **changes}))
    with pytest.raises(UserError) as refused:
        load_grid(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)


def test_what_a_row_leaves_out_must_be_there(tmp_path):
    rows = {"sdft": {"recipe": "sdft", "without": ["objective.contrastive"]}}
    with pytest.raises(UserError, match=r"rows.sdft.without: it has no objective.contrastive; leave that out"):
        grid(rows=rows).config(Cell("sdft", "arithmetic", 0.0, 0), tmp_path)


@pytest.mark.parametrize("file", sorted(GRIDS.glob("*.toml")), ids=lambda file: file.stem)
def test_the_shipped_grids_have_runs_that_can_be_made(file, tmp_path):
    shipped = load_grid(file)
    cells = list(shipped.cells())
    names = {cell.name for cell in cells}
    assert len(names) == len(cells)
    for cell in {cell.row: cell for cell in cells}.values():
        assert shipped.config(cell, tmp_path).run.name in names


def test_rows_of_the_small_grid_count_in_the_recipe_bench(tmp_path):
    small, bench = load_grid(GRIDS / "small.toml"), load_grid(GRIDS / "recipe_bench.toml")
    shared = {cell: small.config(cell, tmp_path) for cell in set(small.cells()) & set(bench.cells())}
    assert {cell.row for cell in shared} == {row.on_policy for row in bench.rows.values()} - {None}
    for cell, config in shared.items():
        assert settings_digest(bench.config(cell, tmp_path)) == settings_digest(config)


def test_the_small_grid_has_as_many_runs_as_it_says():
    for name in ("small", "drop_one", "recipe_bench", "staleness", "corrections"):
        file = GRIDS / f"{name}.toml"
        assert f": {len(list(load_grid(file).cells()))} runs" in file.read_text()
