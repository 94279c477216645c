"""Writes docs/configuration.md from the schema: `make docs-config`, or `python -m docs.configuration`.

Every field with its type, range, default and the line of documentation that stands below it in `unisd_rl/config/`.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from unisd_rl.config import Config
from unisd_rl.config.base import Decides, Section, decides_of
from unisd_rl.config.fields import describe_default, describe_type, kind_label, kinds_of

PAGE = Path(__file__).with_name("configuration.md")
_INTRODUCTION = """# Configuration

*Written by `python -m docs.configuration` from `unisd_rl/config/`; do not edit by hand.*

A run is described by one tree of sections and fields. A recipe is a TOML file of them, and the command line sets any
field over it: `--rollout.engine.type transformers`. A section is switched off by leaving it out of the recipe, or on
the command line by `null`: `--objective.clipping null`. Unknown keys are refused. How recipes lie over one another is
said in [recipes.md](recipes.md). `python -m unisd_rl.run --help SECTION` shows one section of this page.

"absent" as a default means that the field need not be given; its line says what then holds. "required" means that a
section which is there must have it. The defaults are those of a section that says nothing; the shipped recipes
(`unisd_rl/recipes/`) set some of them. Where no upper bound of an integer is said, it is 2,147,483,647. A leading `~`
of a path is the home folder.

A field with "yes" in the column "on resume" may have another value when a run is resumed
([resume.md](resume.md#when-the-driver-is-lost)): it says where, how fast and how patiently the run happens, or how a
step is laid out, and nothing of what it trains.
"""


def page() -> str:
    """The whole page."""
    sections = [
        section
        for name, field in Config.model_fields.items()
        for section in _sections(name, field, "##", decides_of(field, Decides.ROLLOUTS))
    ]
    return "\n".join([_INTRODUCTION, *dict.fromkeys(sections)])  # a section that two kinds share stands here once


def _sections(path: str, field: FieldInfo, level: str, decides: Decides) -> Iterator[str]:
    """The section at `path`, or each kind that may stand there, and below it every section inside it."""
    kinds = kinds_of(field.annotation)
    if len(kinds) > 1 and level == "##":
        yield f"## {path}\n"
    for kind in kinds:
        title = f"{level} {path}" if len(kinds) == 1 else f"### {path}: {kind_label(kind)}"
        yield "\n".join([f"{title}\n", *_table(path, kind, decides)])
        for name, inner in kind.model_fields.items():
            yield from _sections(f"{path}.{name}", inner, "###", decides_of(inner, decides))


def _table(name: str, kind: type[Section], decides: Decides) -> Iterator[str]:
    if kind.__doc__:
        yield " ".join(kind.__doc__.split()) + "\n"
    yield "| field | type | default | on resume | |\n|---|---|---|---|---|"
    for field_name, field in kind.model_fields.items():
        yield _row(f"{name}.{field_name}", field, decides_of(field, decides))
    yield ""


def _row(path: str, field: FieldInfo, decides: Decides) -> str:
    resume = "yes" if decides in (Decides.NOTHING, Decides.ROUNDING) else ""
    cells = (
        f"`{path}`",
        describe_type(field),
        describe_default(field),
        resume,
        " ".join((field.description or "Selects this kind.").split()),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
