"""The learning rate: a linear warm-up, then a cosine to zero. A function of the step: a resumed run needs no state."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float) -> float:
    """The rate of `step` (from 0) of `steps`.

    With `w = round(warmup_fraction * steps)`: `peak * (step + 1) / w` while `step < w`, so that the first step already
    moves; then `peak / 2 * (1 + cos(pi * (step - w) / (steps - w)))`, which would reach zero at `step = steps`.
    """
    warmup = round(warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * peak * (1.0 + math.cos(math.pi * min(done, 1.0)))
