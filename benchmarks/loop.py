"""The loop against the ideal: does whichever side is slower ever wait for the other?

`python -m benchmarks.loop --json FILE`

    stand-in actor  --lease, commit--> the real queue --take--> this driver --> stand-in learner
          ^                                                                          |
          +------------ the real weight store <------- publish, every step ----------+

`--part stand-in`: queue, admission, leases, ledger, snapshots and the weight store are the real ones, each in its Ray
process; a stand-in engine sleeps for the seconds that a rollout took, a stand-in learner for those that a step took, as
recorded in `loops/stand_in_times.json` (the embedded default run, one vLLM actor with 64 prompts in flight, batches of
64, on two cores). The ideal is max(rollout, learn): the sleeps of all rollouts over the places, or those of all steps.
`loop_vs_ideal.S` is that over the time taken at `max_staleness` S, from the end of the first step to the end of the
last. `loop_vs_ideal_even.S` is the same with rollouts slowed down until both sides take equally long, where each hiccup
of one side costs the other. At staleness 0 the two sides alternate: reported, nothing more can be wanted of it.

`--part real`: everything is real, see `loops/real.py`. `loop_vs_unconnected`: steps/s of the loop over those of its two
sides running at the same time unconnected; `loop_vs_alternating`: over those of the loop at staleness 0. Medians.

`--part actor`: `rollout_vs_engine`, tokens/s through one rollout actor (admission, leases, tokenising, commits to the
ledger) over those of vLLM alone on the same prompts, with the same settings on the same core, for answers of up to 128
tokens of a model of 10 million parameters; `rollout_vs_engine_embedded` for the embedded model, and
`rollout_vs_engine_embedded.G` for the same with G answers per prompt. Medians; see `loops/rollout.py`.

`--part colocated`: `colocated_vs_ideal`, the seconds that both sides take alone on all cores, one after the other, over
those of a colocated loop that does the same work in turns; UniSD* with one and with four answers to each prompt on
SmolLM2's shape (the smaller of the two) and on the embedded model (`colocated_vs_ideal.MODEL.gG`).
`colocated_vs_apart.MODEL.gG`: how many times as fast that loop is as the one with half the cores for each side. See
`loops/turns.py`. Takes half an hour on two cores.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from benchmarks.loops.real import real
from benchmarks.loops.rollout import EMBEDDED, LARGER, actor
from benchmarks.loops.rows import Row, SpeedRow, TurnsRow
from benchmarks.loops.stand_in import stand_in
from benchmarks.loops.turns import GROUPS, MODELS, turns, turns_ratios
from benchmarks.output import finish, machine, result_file, show_table
from unisd_rl.cluster.ray_cluster import RAY_ENVIRONMENT

STALENESS = (0, 1, 2, 4)
IDEAL = {"stand-in": "loop_vs_ideal", "stand-in, even": "loop_vs_ideal_even"}
SPEED = {LARGER: "rollout_vs_engine", EMBEDDED: "rollout_vs_engine_embedded"}
AnyRow = Row | SpeedRow | TurnsRow
DATA = Path(__file__).parents[2] / "shared" / "data"
PARTS: dict[str, Callable[[argparse.Namespace], Sequence[AnyRow]]] = {
    "stand-in": stand_in,
    "real": real,
    "actor": actor,
    "colocated": turns,
}


def ratios(rows: Sequence[AnyRow]) -> dict[str, float]:
    """What is compared with what, as far as it was measured."""
    found = {
        f"{IDEAL[row.part]}.{row.staleness}": max(row.rollout_s or 0.0, row.learn_s) / row.seconds
        for row in rows
        if isinstance(row, Row) and row.part in IDEAL
    }
    seconds = medians(rows)
    if "ahead" in seconds:
        found["loop_vs_unconnected"] = seconds["unconnected"] / seconds["ahead"]
        found["loop_vs_alternating"] = seconds["alternating"] / seconds["ahead"]
    speed_rows = [row for row in rows if isinstance(row, SpeedRow)]
    for model, group in dict.fromkeys((row.model, row.group) for row in speed_rows):
        speeds = [row for row in speed_rows if (row.model, row.group) == (model, group)]
        name = SPEED[model] + (f".{group}" if group > 1 else "")
        found[name] = median_speed("actor", speeds) / median_speed("vLLM alone", speeds)
    return found | turns_ratios([row for row in rows if isinstance(row, TurnsRow)])


def medians(rows: Sequence[AnyRow]) -> dict[str, float]:
    """Seconds by part of the loop on the embedded model."""
    loops = [row for row in rows if isinstance(row, Row)]
    return {one.part: statistics.median(row.seconds for row in loops if row.part == one.part) for one in loops}


def median_speed(part: str, rows: Sequence[SpeedRow]) -> float:
    """Tokens a second."""
    return statistics.median(row.tokens_per_s for row in rows if row.part == part)


def show(rows: Sequence[AnyRow]) -> None:
    titles = ((Row, "the loop, seconds"), (TurnsRow, "in turns, seconds"), (SpeedRow, "the same prompts"))
    for kind, title in titles:
        chosen = [asdict(row) for row in rows if isinstance(row, kind)]
        if chosen:
            show_table(title, [field.name for field in fields(kind)], [list(row.values()) for row in chosen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--steps", type=int, default=25, help="of each row")
    parser.add_argument("--staleness", type=int, nargs="+", default=STALENESS, help="of the stand-ins")
    parser.add_argument("--weights-mib", type=int, default=40, help="what the stand-in publishes after every step")
    parser.add_argument("--repeats", type=int, default=3, help="of the real parts")
    parser.add_argument("--concurrency", type=int, default=64, help="prompts in flight in the real engine")
    parser.add_argument("--actor-batches", type=int, default=64, help="of 64 completions, of each row of `actor`")
    parser.add_argument("--larger-batches", type=int, default=2, help="the same, with the larger model")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS, help="of `colocated`")
    parser.add_argument("--groups", type=int, nargs="+", default=GROUPS, help="answers per prompt of `colocated`")
    parser.add_argument("--turns-steps", type=int, default=3, help="of SmolLM2's shape, in each row of `colocated`")
    parser.add_argument("--turns-answers", type=int, default=16, help="of a step of SmolLM2's shape")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with scienceqa.jsonl")
    parser.add_argument("--no-apart", dest="apart", action="store_false", help="leave the loop that is apart out")
    parser.add_argument("--quick", action="store_true", help="a few steps, stand-ins ten times as fast")
    parser.add_argument("--json", type=result_file, help="write machine, rows and ratios to this file")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.staleness, options.weights_mib = 5, (0, 1), 1
        options.repeats, options.actor_batches, options.larger_batches = 1, 2, 1
        options.turns_steps, options.turns_answers = 2, 8
    os.environ.update(RAY_ENVIRONMENT)
    found_on = machine()
    rows = [row for part in options.part for row in PARTS[part](options)]
    show(rows)
    finish(found_on, [asdict(row) for row in rows], ratios(rows), options.json)


if __name__ == "__main__":
    main()
