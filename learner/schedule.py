"""The learning rate: a linear warm-up, then a cosine to zero. A function of the step: a resumed run needs no state."""

import math


def learning_rate(step: int, steps: int, peak: float, warmup_fraction: float, from_zero: bool = False) -> float:
    """The rate of `step` (from 0) of `steps`.

    With `w = round(warmup_fraction * steps)`: `peak * (step + 1) / w` while `step < w`, so that the first step already
    moves; then `peak / 2 * (1 + cos(pi * (step - w) / (steps - w)))`, which would reach zero at `step = steps`.

    `from_zero`: as `transformers.get_cosine_schedule_with_warmup` and its trainer, where w is rounded up and the
    warm-up is `peak * step / w`: the first step has rate 0.
    """
    warmup = math.ceil(warmup_fraction * steps) if from_zero else round(warmup_fraction * steps)
    if step < warmup:
        return peak * (step if from_zero else step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * peak * (1.0 + math.cos(math.pi * min(done, 1.0)))
