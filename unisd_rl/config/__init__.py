"""Every knob of a run: one frozen tree, one module a section."""

from unisd_rl.config.schema import Config

__all__ = ["Config"]
