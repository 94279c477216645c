"""The command that scales rollout actors during a run: `python -m unisd_rl.scale RUN --actors N [--timeout S] [...]`.

RUN is the folder of a running run, whose learner is not affected. An actor that leaves completes first what it has in
flight; a new one begins with the newest weights. Where the cluster has no room for it, its placement group waits, which
Ray's autoscaler takes as a request for a node.

Exit codes: 0 so many serve, 1 not yet or not any more, 2 the request is refused, 130 stopped.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.scale_requests import ActorCounts, ScaleRequests
from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.config.load import recipe_tree
from unisd_rl.config.rollout import AutoActors
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.storage.recorded_run import check_is_run

PROGRAM = "python -m unisd_rl.scale"
_DESCRIPTION = "Change the number of rollout actors during a run."
POLL_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Scale; returns the exit code."""
    return exit_code(_scale, arguments)


def _scale(arguments: Sequence[str]) -> int:
    parser = CliParser(PROGRAM, "RUN --actors N [--timeout S] [--no-wait]", _DESCRIPTION)
    parser.add_argument("run", type=user_path, metavar="RUN", help="the run's folder")
    parser.add_argument("--actors", type=int, required=True, metavar="N", help="target number of rollout actors")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="S", help="longest wait (default: 900 s)")
    parser.add_argument("--no-wait", action="store_true", help="return without waiting for the actors")
    options = parser.parse_args(arguments)
    requests = ScaleRequests(options.run)
    _check_request(options.run, requests, options.actors)
    requests.request_actors(options.actors)
    if not options.no_wait:
        _wait_until(requests, options.run, options.actors, options.timeout)
    return 0


def _check_request(run: Path, requests: ScaleRequests, actors: int) -> None:
    """Raise `UserError` for what cannot be requested."""
    if actors < 1:
        raise UserError(f"--actors {actors}: a run needs at least 1 rollout actor")
    check_is_run(run)
    if not requests.running:
        raise UserError(f"the run in {run} is not running: resume it first, then scale it")
    recorded = recipe_tree(str(run / "config.toml"))
    placement = recorded["run"].get("placement")
    if placement in ("colocated", "in_process"):
        raise UserError(
            f'--actors {actors}: this run has run.placement = "{placement}", where one actor and the learner take '
            "turns: resume it with --run.placement apart to scale it"
        )
    configured = recorded["rollout"]["actors"]
    bounds = AutoActors.model_validate(configured) if isinstance(configured, dict) else None
    if bounds is not None and not bounds.min <= actors <= bounds.max:
        raise UserError(
            f"--actors {actors}: this run chooses between rollout.actors.min = {bounds.min} and max = {bounds.max}; "
            "name a number between those"
        )


def _wait_until(requests: ScaleRequests, run: Path, actors: int, timeout_s: float) -> None:
    deadline_s, console = time.monotonic() + timeout_s, Console(highlight=False, soft_wrap=True)
    with console.status(f"{actors} rollout actors wanted") as spinner:
        while not _reached(status := requests.status(), actors):
            if not requests.running:
                raise RunFailed(f"the run in {run} ended before {actors} rollout actors served")
            if time.monotonic() > deadline_s:
                raise RunFailed(
                    f"waited {timeout_s:g} s for {actors} rollout actors: {describe(status)}; the request stands"
                )
            spinner.update(describe(status))
            time.sleep(POLL_S)
    console.print(describe(status), markup=False)


def _reached(status: ActorCounts | None, actors: int) -> bool:
    return status is not None and status.wanted == status.serving == actors and len(status.states) == actors


def describe(status: ActorCounts | None) -> str:
    """E.g. `2 of 3 rollout actors serve (rollout-2: waiting for a place)`."""
    if status is None:
        return "the run has not started its rollout actors yet"
    others = "; ".join(state for state in status.states if not state.endswith(": serving"))
    return f"{status.serving} of {status.wanted} rollout actors serve" + (f" ({others})" if others else "")


if __name__ == "__main__":
    sys.exit(main())
