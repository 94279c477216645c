"""The base of every section of the configuration: immutable, documented field by field, strict about unknown keys.

And the types of its fields. A type ends where something that reads the field ends: what it accepts works everywhere.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

_SMALLEST_FLOAT32, _LARGEST_FLOAT32 = 2.0**-126, 3.4e38
_COLDEST = 0.01  # vLLM takes a lower temperature for this one, in silence
_LONGEST_TEXT, _LONGEST_PATH, _LONGEST_NAME = 4096, 4000, 240  # bytes; a name gets suffixes such as `.partial`


def _in_float32(number: float) -> float:
    """Where a number is computed with, it is float32: it must not become 0 or infinite there."""
    if number and not _SMALLEST_FLOAT32 <= abs(number) <= _LARGEST_FLOAT32:
        raise ValueError(f"{number:g} is {'infinite' if abs(number) > 1.0 else '0'} in float32; give a number it holds")
    return number


def _greedy_or_sampled(temperature: float) -> float:
    if 0.0 < temperature < _COLDEST:
        raise ValueError(f"{temperature:g} is below {_COLDEST:g}, which vLLM would take instead; 0 is greedy")
    return temperature


def _asked_of_ray(amount: float) -> float:
    """Ray deals in ten-thousandths, and above 1 in whole numbers."""
    if amount and (amount < 1e-4 or (amount > 1.0 and amount % 1.0)):
        raise ValueError(f"{amount:g}: Ray gives shares of at least 0.0001, and above 1 whole numbers only")
    return amount


def _not_empty(path: object) -> object:
    if path == "":
        raise ValueError("an empty path; the working directory is `.`")
    return path


def expand_path(path: Path) -> Path:
    """A path with the home folder for a leading `~`; ValueError where there is none, or no file system takes it."""
    if any(character < " " for character in str(path)):
        raise ValueError(f"{str(path)!r:.80} has a line break or another control character; rename it")
    if len(os.fsencode(path)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError(f"longer than a file system takes ({_LONGEST_NAME} bytes a name, {_LONGEST_PATH} in all)")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} does not lead to a home folder ({error}); write the path in full") from None


def expand_home(name: str) -> str:
    """A folder, or a name that is none, with the home folder for a leading `~`; ValueError where there is none."""
    return str(expand_path(Path(name))) if name.startswith("~") else name


def _file_name(name: str) -> str:
    if len(name.encode()) > _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"{name!r:.80} is no name of a file: at most {_LONGEST_NAME} bytes that a terminal can show")
    return name


def _custom(resources: dict[str, float]) -> dict[str, float]:
    for name in resources:
        if name in ("", "GPU", "memory", "object_store_memory"):
            raise ValueError(f"{name!r} is no custom resource of Ray; GPUs are asked for by a setting of their own")
    return resources


def _check_text(name: str, text: str) -> None:
    if "\0" in text or text != text.encode(errors="replace").decode():
        raise ValueError(f"{name} = {text!r:.80} holds a character that is none (NUL, or half of a pair); leave it out")
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"{name} = {text!r:.80} has {len(text):,} characters; give at most {_LONGEST_TEXT:,}")


Fraction = Annotated[float, Field(ge=0.0, le=1.0), AfterValidator(_in_float32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A fraction of a count."""
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0), AfterValidator(_in_float32)]
Positive = Annotated[float, Field(gt=0.0), AfterValidator(_in_float32)]
NonNegative = Annotated[float, Field(ge=0.0), AfterValidator(_in_float32)]
Temperature = Annotated[float, Field(ge=_COLDEST, le=1e4)]
"""Of a softmax."""
TemperatureOrGreedy = Annotated[float, Field(ge=0.0, le=1e4), AfterValidator(_greedy_or_sampled)]
"""0 is greedy."""
Seconds = Annotated[float, Field(gt=0.0, le=1e8)]
"""A wait. Operating systems count them in less than floats hold."""
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""What int32 columns and indices hold."""
CountOrNone = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""A count, where 0 is none."""
Processes = Annotated[int, Field(ge=1, le=4096)]
Gpus = Annotated[float, Field(ge=0.0, le=4096.0), AfterValidator(_asked_of_ray)]
"""GPUs a process asks for; a share of one is shared with others."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What Python's, numpy's, torch's and vLLM's generators all take."""
Cores = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**16)], ...], Field(min_length=1)]
Resources = Annotated[
    dict[str, Annotated[float, Field(ge=0.0, le=1e9), AfterValidator(_asked_of_ray)]], AfterValidator(_custom)
]
"""Custom Ray resources, by name."""
FileName = Annotated[str, Field(pattern=r"^[^/.][^/]*$"), AfterValidator(_file_name)]
"""A name in a folder."""
UserPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(expand_path)]
"""A path as a person writes it, with `~`."""
ModelName = Annotated[str, AfterValidator(expand_home)]
"""A folder, with `~`, or a name on a hub."""


class Section(BaseModel):
    """A part of the configuration: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _texts_can_be_written(cls, given: Any) -> Any:
        """Texts end up in file names, in config.toml and in environments: none of these takes every Python string."""
        for name, value in given.items() if isinstance(given, Mapping) else ():
            for text in value if isinstance(value, list | tuple | Mapping) else [value]:
                if isinstance(text, str | Path):
                    _check_text(name, str(text))
        return given


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
