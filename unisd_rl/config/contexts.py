"""What teachers read."""

from unisd_rl.config.section import Count, Section


class AuxiliaryConfig(Section):
    """Views that read another problem's solution."""

    views: Count = 3
    """K, the number of auxiliary views; each reads one solved example of another problem."""


class NegativeConfig(Section):
    """The view that reads a wrong demonstration."""

    attempts: Count = 8
    """Candidates tried for a demonstration that the grader finds wrong; without one a problem has no negative view."""


class ContextsConfig(Section):
    """What the teachers read beside the prompt."""

    auxiliary: AuxiliaryConfig | None = None
    """Views that read another problem's solution (for agreement). Absent: none."""
    negative: NegativeConfig | None = None
    """The view that reads a wrong demonstration (for the contrastive term). Absent: none."""
