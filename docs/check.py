"""Finds what the documents name and the tree does not have: `python -m docs.check`, part of `make lint`.

Looked at are the Markdown files of the repository:

- no merge is left half done in it;
- a relative link leads to a file, and its anchor to a heading there;
- a path in backticks exists, a dotted name in backticks is a module of ours or is defined in one;
- `section.field` in backticks, and `--section.field` in commands, are of the configuration;
- any other single name in backticks stands somewhere in the code;

and the code: each `decision N` and each `method.md, section N` has its heading, and each `docs/*.md` exists.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from unisd_rl.config import Config
from unisd_rl.config.fields import field_names as fields

ROOT = Path(__file__).parents[1]
PACKAGES = ("unisd_rl", "actors", "learner")
_CODE = (*PACKAGES, "tests", "benchmarks", "deploy", "examples", "locks", "docs", ".github", ".ci")
_NOT_OURS = frozenset(
    {"AutoModelForCausalLM", "ModuleNotFoundError", "DashboardAgent", "RuntimeEnvAgent", "backwards.py"}
)
"""Names in backticks that a reader fills in, or that are another library's."""
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, _CODE))})/[\w./-]*")
_DOTTED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
_NAME = re.compile(r"[A-Za-z_]\w{3,}(?:\(\))?")
_MADE_UP = re.compile(r"_(s|tokens)$")
"""Endings of the fields of metrics.jsonl that are put together where they are written."""
_OPTION = re.compile(r"--([a-z_]+(?:\.[a-z_]+)+)")


def documents(root: Path = ROOT) -> list[Path]:
    """Every Markdown file but those of tools, runs and grids, which are hidden or not in the repository."""
    folders = {path: path.relative_to(root).parts[0] for path in root.rglob("*.md")}
    others = ("build", "grids", "runs")
    return sorted(path for path, top in folders.items() if not top.startswith(".") and top not in others)


def problems(root: Path = ROOT) -> list[str]:
    """One sentence for each thing that is named and not there."""
    found = [problem for path in documents(root) for problem in _document_problems(path, root)]
    return found + list(_citation_problems(root))


def _document_problems(path: Path, root: Path) -> Iterator[str]:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(root)
    prose = _FENCE.sub("", text)
    if re.search(r"^(<<<<<<<|>>>>>>>) ", text, flags=re.MULTILINE):
        yield f"{name}: a merge was left half done"
    for link in _LINK.findall(prose):
        if problem := _link_problem(link, path):
            yield f"{name}: {problem}"
    for span in _CODE_SPAN.findall(prose) if path.name != "CHANGELOG.md" else ():  # which names what there was
        if problem := _span_problem(span, root):
            yield f"{name}: {problem}"
    for field in _OPTION.findall(text):
        if field not in fields():
            yield f"{name}: --{field} is no field of the configuration"


def _link_problem(link: str, document: Path) -> str | None:
    if re.match(r"[a-z]+:", link):
        return None
    target, _, anchor = link.partition("#")
    path = (document.parent / target) if target else document
    if not path.exists():
        return f"the link {link} leads to no file"
    if anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
        return f"the link {link} leads to no heading"
    return None


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as forges make them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def _span_problem(span: str, root: Path) -> str | None:
    if _PATH.fullmatch(span):
        return None if (root / span).exists() else f"`{span}` does not exist"
    if re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) and any(f".{field}".endswith(f".{span}") for field in fields()):
        return None
    if _DOTTED.fullmatch(span):
        return None if defined(span, root) else f"`{span}` is no field and no module, and not defined in one"
    if re.fullmatch(rf"({'|'.join(Config.model_fields)})(\.[a-z_]+)+", span):
        return f"`{span}` is no field of the configuration"
    if _NAME.fullmatch(span) and not {span.removesuffix("()"), _MADE_UP.sub("", span)} & (words(root) | _NOT_OURS):
        return f"`{span}` stands nowhere in the code"
    if re.fullmatch(r"[\w-]+\.(py|sh|md)", span) and span not in file_names(root) | _NOT_OURS:
        return f"`{span}` is no file of ours"
    return None


def _citation_problems(root: Path) -> Iterator[str]:
    """What the code cites in the documents."""
    decisions = _numbers(root / "docs/architecture.md", r"^### (\d+)\. ")
    sections = _numbers(root / "docs/method.md", r"^## (\d+)\. ")
    for path in sources(root):
        text = path.read_text(encoding="utf-8")
        for number in re.findall(r"\bdecisions? (\d+)", text):
            if number not in decisions:
                yield f"{path.relative_to(root)}: decision {number} is not in docs/architecture.md"
        for number in re.findall(r"method\.md`?,? sections? (\d+)", text):
            if number not in sections:
                yield f"{path.relative_to(root)}: section {number} is not in docs/method.md"
        for document in re.findall(r"\b(?:docs|deploy)/[\w/]+\.md", text):
            if not (root / document).exists():
                yield f"{path.relative_to(root)}: {document} does not exist"


def _numbers(document: Path, heading: str) -> set[str]:
    return set(re.findall(heading, document.read_text(encoding="utf-8"), flags=re.MULTILINE))


@cache
def sources(root: Path) -> list[Path]:
    """The product's Python files and recipes, the tests and the benchmarks."""
    folders = (*PACKAGES, "tests", "benchmarks")
    own = root / "tests/unit/docs"
    found = [path for folder in folders for path in (root / folder).rglob("*") if path.suffix in (".py", ".toml")]
    return sorted(path for path in found if own not in path.parents)


@cache
def words(root: Path) -> frozenset[str]:
    """Every word of the code, the deployment files, the locks and the Makefile."""
    others = [path for folder in ("deploy", "examples", "locks") for path in (root / folder).rglob("*")]
    roots = [root / name for name in ("Makefile", "pyproject.toml", "docker-compose.yml", ".env")]
    texts = [
        path for path in (*sources(root), *others, *roots) if path.is_file() and path.suffix not in (".md", ".pyc")
    ]
    return frozenset(word for path in texts for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))


@cache
def file_names(root: Path) -> frozenset[str]:
    """The names of all files of the tree, without their folders."""
    below = [path for folder in _CODE for path in (root / folder).rglob("*")]
    return frozenset(path.name for path in (*below, *root.iterdir()))


def defined(name: str, root: Path) -> bool:
    """Whether a dotted name is a module of ours, or begins with one and a name that is defined in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        stem = root.joinpath(*parts[:length])
        if stem.is_dir() and length == len(parts):
            return True
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return length == len(parts) or parts[length] in _names_in(file)
    return False


@cache
def _names_in(file: Path) -> frozenset[str]:
    names = set[str]()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(names=imported):
                names |= {alias.asname or alias.name for alias in imported}
    return frozenset(names)


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "the documents name what is there")
    sys.exit(bool(found))
