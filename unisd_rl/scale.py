"""`python -m unisd_rl.scale RUN --actors N [--timeout S] [--no-wait]`: rollout actors come and go in mid-run.

RUN is the folder of a run that is going on. The learner is not touched. What an actor that goes has in flight it
completes first; one that comes begins with the newest weights. Where the cluster has no place for it, its placement
group waits: that is what Ray's autoscaler reads as a wish for a node.

Exit codes: 0 so many serve, 1 not yet or no more, 2 the request is refused, 130 stopped.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from actors.scale_requests import ActorCounts, ScaleRequests
from unisd_rl.cli import OneSentenceParser, exit_code
from unisd_rl.config.load import recipe_tree
from unisd_rl.config.rollout import AutoActors
from unisd_rl.errors import RunFailed, UserError

PROGRAM = "python -m unisd_rl.scale"
POLL_S = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask for actors; returns the exit code."""
    return exit_code(_scale, arguments)


def _scale(arguments: Sequence[str]) -> int:
    what = "Change the number of rollout actors of a run that is going on."
    parser = OneSentenceParser(PROGRAM, "RUN --actors N [--timeout S] [--no-wait]", what)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--actors", type=int, required=True, metavar="N", help="how many there shall be")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="S", help="longest wait (default: 900 s)")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until so many serve")
    asked = parser.parse_args(arguments)
    control = ScaleRequests(asked.run)
    _refuse(asked.run, control, asked.actors)
    control.request_actors(asked.actors)
    if not asked.no_wait:
        _wait_until(control, asked.run, asked.actors, asked.timeout)
    return 0


def _refuse(run: Path, control: ScaleRequests, actors: int) -> None:
    """Raise `UserError` for what cannot be asked."""
    if actors < 1:
        raise UserError(f"--actors {actors}: a run needs at least 1 rollout actor")
    if not (run / "config.toml").is_file():
        raise UserError(f"{run} is not the folder of a run: it has no config.toml; name the folder that `run` printed")
    if not control.running:
        raise UserError(f"the run in {run} is not going on: nothing can be scaled")
    bounds = _bounds(run)
    if bounds is not None and not bounds.min <= actors <= bounds.max:
        raise UserError(
            f"--actors {actors}: this run chooses between rollout.actors.min = {bounds.min} and max = {bounds.max}; "
            "name a number between those"
        )


def _bounds(run: Path) -> AutoActors | None:
    actors = recipe_tree(str(run / "config.toml"))["rollout"]["actors"]
    return AutoActors.model_validate(actors) if isinstance(actors, dict) else None


def _wait_until(control: ScaleRequests, run: Path, actors: int, timeout_s: float) -> None:
    deadline_s, console = time.monotonic() + timeout_s, Console(highlight=False, soft_wrap=True)
    with console.status(f"{actors} rollout actors wanted") as spinner:
        while not _reached(status := control.status(), actors):
            if not control.running:
                raise RunFailed(f"the run in {run} ended while {actors} rollout actors were waited for")
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
    rest = [state for state in status.states if not state.endswith(": serving")]
    return f"{status.serving} of {status.wanted} rollout actors serve" + (f" ({'; '.join(rest)})" if rest else "")


if __name__ == "__main__":
    sys.exit(main())
