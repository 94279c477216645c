"""The base of every section of the configuration: immutable, documented field by field, strict about unknown keys."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Cores = Annotated[tuple[int, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Decides(Enum):
    """What a setting decides. Said in its field's `Annotated`, or else for the section it is in.

    A run may be resumed with other settings that decide `NOTHING` or `ROUNDING`; a replay's losses may differ from the
    run's when a setting that decides `LOSS` or `ROUNDING` is another.
    """

    ROLLOUTS = auto()  # which rollouts there are; the default
    LOSS = auto()  # what a step computes from its rollouts
    ROUNDING = auto()  # how it computes that: the same but for rounding
    NOTHING = auto()  # where, how fast and how patiently a run happens


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a configuration: its value as JSON has it, and what it decides."""

    value: Any
    decides: Decides


def decides_of(field: FieldInfo, section: Decides) -> Decides:
    """What a field decides, in a section that decides `section`."""
    return next((mark for mark in field.metadata if isinstance(mark, Decides)), section)


def settings(section: Section, decides: Decides = Decides.ROLLOUTS, prefix: str = "") -> dict[str, Setting]:
    """Dotted name -> each field below `section`, which itself `decides` that; an absent section is a field."""
    fields: dict[str, Setting] = {}
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        mark = decides_of(field, decides)
        inner = getattr(section, name)
        if isinstance(inner, Section):
            fields |= settings(inner, mark, f"{prefix}{name}.")
        else:
            fields[f"{prefix}{name}"] = Setting(values[name], mark)
    return fields
