"""The command that evaluates models on held-out problems: `python -m unisd_rl.evaluate MODEL [MODEL ...] [...]`.

The input is checked here, before anything heavy is imported; the rest is `driver/evaluate_job.py`. Exit codes:
`cli.exit_code`.
"""

import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from unisd_rl.cli import (
    CliParser,
    check_absolute_under_a_job,
    check_machine,
    check_model_folder,
    exit_code,
    limit_openmp_spinning,
    machine_gpus,
    print_lines,
    user_model,
    user_path,
)
from unisd_rl.cluster.resources import generation_requirements, retention_requirement
from unisd_rl.driver.console import Console
from unisd_rl.errors import UserError
from unisd_rl.evaluation.request import BASE, EvaluationRequest, evaluation_request, task_types

PROGRAM = "python -m unisd_rl.evaluate"
_DESCRIPTION = f"""Let models answer held-out problems through the rollout actors, and compare them with the first.

MODEL: a folder such as a run's checkpoint, a hub name, or `{BASE}` for the embedded base model."""
_FIELDS = """Fields of the sections run, model, task, rollout and evaluation that say how models answer may be set as
for `python -m unisd_rl.run`, e.g. --rollout.engine.type transformers --task.eval_examples 100."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit code."""
    return exit_code(_evaluate, arguments)


def _evaluate(arguments: Sequence[str]) -> int:
    words = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options, fields = _parser().parse_known_args(arguments[len(words) :])
    models = [user_model(word) for word in words]
    if not models:
        raise UserError(f"no MODEL: give a model folder, a hub name or `{BASE}` before the first option")
    request = evaluation_request(models, options, fields, PROGRAM, machine_gpus)
    check_without_imports(request)
    in_process = request.config.run.in_process
    if not in_process:
        check_machine((*generation_requirements(request.config), *retention_requirement(request.config)))
    limit_openmp_spinning()
    if options.dry_run:
        from unisd_rl.driver.dry_run import describe_evaluation  # heavy: tokenizers

        print_lines(describe_evaluation(request))
        return 0
    with Console(quiet=options.quiet, captures=not in_process) as console:
        with console.waiting("loading the libraries"):
            from unisd_rl.driver.evaluate_job import run_evaluation  # heavy: torch, Ray
        run_evaluation(request, console)
    return 0


def check_without_imports(request: EvaluationRequest) -> None:
    """Check what the files and the environment tell.

    Raises:
        UserError: one sentence with the value and the remedy.
    """
    check_absolute_under_a_job("out", request.out)
    if request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        raise UserError(f"--out {request.out} is there already: name a folder that is not, or empty that one")
    for model in request.models:
        _check_model("MODEL", model)
    if request.retention_base is not None:
        _check_model("--retention", request.retention_base)
    from unisd_rl.tasks.load import check_task

    for config in request.by_task.values():
        check_task(config.task)


def _check_model(setting: str, model: str) -> None:
    if model == BASE:
        return
    check_model_folder(setting, model)
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        inside = sorted(folder.glob("checkpoints/*/config.json"))
        instead = f"its checkpoints are: {', '.join(str(file.parent) for file in inside)}" if inside else "name another"
        raise UserError(f"{setting} = {model!r} holds no model (no config.json); {instead}")


def _parser() -> CliParser:
    parser = CliParser(PROGRAM, "MODEL [MODEL ...] [--task TASK ...] [OPTION ...]", _DESCRIPTION, _FIELDS)
    types = ", ".join(task_types())
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        help=f"a type of task ({types}) or a TOML file with a [task] section; repeat it for several tasks; "
        "default: the recipe's",
    )
    parser.add_argument("--recipe", nargs="+", help="as for a run, or a run's config.toml: limits, engine, time-outs")
    parser.add_argument("--samples", type=int, help="answers per problem (default 1)")
    parser.add_argument("--k", type=int, nargs="+", help="report pass@k for each k (default 1)")
    parser.add_argument("--temperature", type=float, help="default: 0 for one answer, rollout.temperature for several")
    parser.add_argument(
        "--retention", type=user_model, metavar="BASE", help="measure PPLfit, PPLret and JSD against this model"
    )
    parser.add_argument("--out", type=user_path, help="folder of the results (default: run.dir/evaluation-DATE-TIME)")
    parser.add_dry_run()
    parser.add_quiet()
    return parser


if __name__ == "__main__":
    sys.exit(main())
