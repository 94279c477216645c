"""A process that tells a tracker of a run as the driver does, and then ends: `tracked_process TRACKER FOLDER`.

It says when all steps are told, ends what it tells on a line of its input, and says how long both took.
"""

import json
import sys
import time
from pathlib import Path

from tests.fakes.run_folder import step
from unisd_rl.config.load import load_recipe
from unisd_rl.tracking.build import trackers

STEPS = 50


def main(name: str, folder: Path) -> None:
    events: list = []
    told = trackers(load_recipe("unisd_star", {"tracking": {"to": (name,)}}), folder, events.append)
    began_s = time.monotonic()
    told.begin(0)
    for number in range(STEPS):
        told.step(step(number))
    told.evaluation(STEPS, {"accuracy": 0.5}, [("1+1", "2", "right")])
    _say(told_s=time.monotonic() - began_s)
    sys.stdin.readline()
    ends_s = time.monotonic()
    told.close()
    _say(closed_s=time.monotonic() - ends_s, notices=[event.reason for event in events])


def _say(**what) -> None:
    print(json.dumps(what), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
