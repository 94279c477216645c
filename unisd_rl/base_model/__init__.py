"""The model a run starts from: the user's own, or the embedded one: tiny, trained from scratch, imperfect on purpose.

`model_folder` is all that a run needs. An embedded model has the hash of its recipe, its corpus and its tokenizer for a
name. That of seed 0 lies in the package, as training left it (float32); any other is trained at first use and then lies
in the user's cache folder, whole or not at all. So a recipe that has changed is trained anew.
"""

import hashlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from unisd_rl.base_model.recipe import BaseModelRecipe
from unisd_rl.config import Config
from unisd_rl.storage.files import replace_directory
from unisd_rl.types import Progress, ReportProgress

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

__all__ = ["BaseModelRecipe", "base_model_or_tokenizer", "ensure_base_model", "model_folder", "recipe_of"]

SHIPPED = Path(__file__).parent / "trained"
"""The folder of the models in the package."""

QUESTION_FIRST = 16
"""Sequences with the question first that a training step reads, where runs read that order."""


def model_folder(config: Config, directory: Path, progress: Progress) -> Path:
    """The model to start from. The embedded one is trained, unless it is there, and copied into `directory`, the run's,
    so that every node that sees this folder sees the model. Of a model that reads more than text the text decoder is
    written there.

    Raises:
        UserError: transformers does not load the user's own.
    """
    if config.model.path is not None:
        path = Path(config.model.path)
        return _text_model(path.absolute() if path.is_dir() else path, directory, progress)
    with progress.progress("base model") as report:
        cached = ensure_base_model(recipe_of(config), report)
    target = directory / "base_model"
    if not target.exists():  # copied once: a run that is resumed finds the model it began with
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(cached, partial)
        replace_directory(partial, target)
    return target


def _text_model(path: Path, directory: Path, progress: Progress) -> Path:
    from transformers.utils.logging import disable_progress_bar

    from unisd_rl.models.load import has_text_decoder, read_config, write_text_decoder

    if not has_text_decoder(read_config(path)):
        return path
    disable_progress_bar()
    target = directory / f"text_decoder-{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}"
    if not target.exists():  # written once: a run that is resumed finds the model it began with
        partial = target.with_name(f"{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            with progress.waiting(f"writing the text decoder of {path}"):
                write_text_decoder(path, partial)
            replace_directory(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def base_model_or_tokenizer(recipe: BaseModelRecipe, into: Path) -> Path:
    """The folder of the base model of this recipe where it is trained, or else `into`, where the tokenizer that it
    would have is saved. Trains nothing."""
    tokenizer, folder = _tokenizer_and_folder(recipe)
    if folder.is_dir():
        return folder
    tokenizer.save_pretrained(into)
    return into


def ensure_base_model(recipe: BaseModelRecipe, report: ReportProgress) -> Path:
    """The folder of the base model of this recipe; trained now (about a minute) if it is not there yet.

    `report` gets the steps done and their number.
    """
    _, folder = _tokenizer_and_folder(recipe)
    if not folder.is_dir():
        train_into(folder, recipe, report)
    return folder


def train_into(folder: Path, recipe: BaseModelRecipe, report: ReportProgress) -> None:
    """Train the model of a recipe and write it, with its tokenizer. Several processes may do so at once: each trains,
    the first to finish counts.
    """
    from transformers.utils.logging import disable_progress_bar

    from unisd_rl.base_model.train import train_model

    tokenizer, _ = tokenizer_and_digest(recipe)
    model = train_model(recipe, tokenizer, report)
    disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        os.rename(unfinished, folder)
    except OSError:  # another process was first
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # it has gone by now, unless something failed or was stopped


def recipe_of(config: Config) -> BaseModelRecipe:
    """The recipe of the embedded model that a run begins with."""
    order = config.model.base_order or config.contexts.order
    # Both orders are learned there, so that runs of either can begin with that model and be compared.
    question_first = QUESTION_FIRST if order == "question_first" else 0
    return BaseModelRecipe(seed=config.model.base_seed, question_first=question_first)


def _tokenizer_and_folder(recipe: BaseModelRecipe) -> tuple["Qwen2Tokenizer", Path]:
    """The tokenizer of a recipe, made in a moment, and the folder in which its model lies once it is trained."""
    tokenizer, digest = tokenizer_and_digest(recipe)
    shipped = SHIPPED / digest
    return tokenizer, shipped if shipped.is_dir() else user_cache_path("unisd-rl") / "base-models" / digest


@cache  # a start asks several times
def tokenizer_and_digest(recipe: BaseModelRecipe) -> tuple["Qwen2Tokenizer", str]:
    """The tokenizer of a recipe, and the digest of all that decides its model."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers asks DeepSpeed when it saves; no notice on the screen
    from unisd_rl.base_model.corpus import corpus_text, train_tokenizer

    text = corpus_text(recipe)
    tokenizer = train_tokenizer(recipe, text)
    return tokenizer, recipe.digest("\n".join(text), tokenizer.backend_tokenizer.to_str())
