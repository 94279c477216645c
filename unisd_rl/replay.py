"""The command that trains again from a run's ledger: `python -m unisd_rl.replay RUN [--check] [...]`.

Nothing is generated: the rollouts that RUN stored are trained on in their order, from the model RUN began with. With
nothing changed, on the CPU in float32 with as many ranks and threads, every loss is the same bit for bit; with other
settings (`--objective...`, `--learner...`) it is an experiment on the same rollouts.

The input is checked here, before anything heavy is imported; the rest is `driver/replay_job.py`. Exit codes:
`cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unisd_rl.cli import (
    CliParser,
    check_absolute_under_a_job,
    check_fields_are_read,
    check_machine,
    check_model_folder,
    exit_code,
    limit_openmp_spinning,
    parse_fields,
    print_lines,
    user_path,
)
from unisd_rl.cluster.resources import learner_requirement
from unisd_rl.config import Config
from unisd_rl.config.load import overlay
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.storage.recorded_run import RecordedRun, ReplayRequest, changed_settings, check_run_folder

PROGRAM = "python -m unisd_rl.replay"
_ANY_MISMATCH = 1e9  # nats
_DESCRIPTION = """Train again from the rollouts that a run stored, in the same order, without actors and queue, and
report whether the losses are the run's.

RUN: the folder of a run that ended."""
_FIELDS = """Fields that say how a step is computed (objective, learner, contexts, model, run) may be set as for
`python -m unisd_rl.run`; the others are as in RUN. If a changed one affects losses, they are not compared. Without
--run.name the files go to RUN-replay."""
UNREAD = (
    "task", "weights", "evaluation", "faults", "contexts.cache", "model.base_seed", "model.chat_template",
    "rollout.engine", "rollout.actors", "rollout.gpus_per_actor",
    "rollout.resources", "rollout.cores", "rollout.concurrency", "rollout.sources", "rollout.max_prompt_tokens",
    "rollout.max_completion_tokens", "rollout.max_staleness", "rollout.lease_s", "rollout.lease_unit",
    "rollout.max_attempts", "rollout.fsync", "rollout.ledger",
)  # fmt: skip
"""What a replay has no use for: its rollouts are there, with their tokens and their views."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay; returns the exit code."""
    return exit_code(_replay, arguments)


def _replay(arguments: Sequence[str]) -> int:
    options, fields = _parser().parse_known_args(arguments)
    request = replay_request(options.run, options.check, parse_fields(fields, PROGRAM))
    in_process = request.config.run.in_process
    if not in_process:
        check_machine((learner_requirement(request.config),))
    limit_openmp_spinning()
    if options.dry_run:
        from unisd_rl.driver.dry_run import describe_replay  # heavy: reads the ledger and the model's configuration

        print_lines(describe_replay(request))
        return 0
    with Console(quiet=options.quiet, captures=not in_process) as console:
        with console.waiting("loading the libraries"):
            from unisd_rl.driver.replay_job import run_replay  # heavy: torch, Ray
        run_replay(request, console)
    return 0


def replay_request(folder: Path, check: bool, fields: dict[str, Any]) -> ReplayRequest:
    """The checked request that the command line makes.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    check_fields_are_read(fields, UNREAD, "a replay")
    run = RecordedRun.at(folder)
    location = {"run": {"dir": str(run.path.parent), "name": f"{run.path.name}-replay"}}
    config = run.config(overlay(location, fields))
    changed = changed_settings(run.original, config)
    if changed:
        # Other students than these sampled the tokens: the log-prob mismatch is reported, and must not end the replay.
        config = run.config(overlay({"learner": {"logprob_tolerance": _ANY_MISMATCH}}, overlay(location, fields)))
    _check_request(run, config, changed, check)
    return ReplayRequest(run, config, changed, check)


def _check_request(run: RecordedRun, config: Config, changed: tuple[str, ...], check: bool) -> None:
    check_absolute_under_a_job("run.dir", config.run.dir)
    check_model_folder("model.path", config.model.path)
    if config.run_dir.absolute() == run.path:
        raise UserError(
            f"--run.name {config.run.name} is the run itself, which would be moved aside; take another name"
        )
    if config.run.epochs is not None:
        raise UserError(
            f"run.epochs = {config.run.epochs}: a replay reads rollouts, not problems, and cannot count epochs; give "
            "--run.steps"
        )
    check_run_folder(config.run_dir)
    if check and changed:
        raise UserError(
            f"--check compares losses, which depend on what was changed ({', '.join(changed)}): leave one out"
        )
    if check and not run.losses():
        raise UserError(f"--check: {run.path / 'metrics.jsonl'} holds no losses to compare with; leave it out")


def _parser() -> CliParser:
    parser = CliParser(
        PROGRAM, "RUN [--check] [--dry-run] [--quiet] [--SECTION.FIELD VALUE ...]", _DESCRIPTION, _FIELDS
    )
    parser.add_argument("run", metavar="RUN", type=user_path, help="the run's folder")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a loss is not the run's, bit for bit")
    parser.add_dry_run()
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    sys.exit(main())
