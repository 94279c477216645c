"""The end of W&B's service process, `wandb-core`, where the library would wait for it.

The library starts it as a child and waits at exit until it has sent everything: minutes where a server does not answer.
"""

import psutil

_NAME = "wandb-core"


def end_service() -> None:
    """Kill it, if this process has one. What it was told since its last write is told again when the run is resumed."""
    for child in psutil.Process().children():
        try:
            if child.name() == _NAME:
                child.kill()
        except psutil.NoSuchProcess:  # a child that ends meanwhile
            continue
