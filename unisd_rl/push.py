"""The command that puts a run's model on a hub: `python -m unisd_rl.push RUN --to OWNER/NAME`.

RUN is a run's folder, whose newest checkpoint is taken, or RUN@STEP. What goes there is a model folder: weights,
configuration, generation configuration, tokenizer, chat template, model card, and under LoRA the adapter. What training
resumes from stays. Exit codes: `cli.exit_code`.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from unisd_rl.cli import CliParser, exit_code, user_path
from unisd_rl.errors import RunFailed, UserError
from unisd_rl.reporting.model_card import CARD, write_model_card
from unisd_rl.reporting.record import RunRecord
from unisd_rl.storage.checkpoints import DamagedCheckpoint, newest_first, open_verified

PROGRAM = "python -m unisd_rl.push"
_DESCRIPTION = """Put a run's model on a hub, with its model card. Log in first: `hf auth login`, or HF_TOKEN.
HF_ENDPOINT names another hub than the usual one. The repository is private unless --public is given."""
_STAYS = ("training_state/*", "run_state.json", "manifest.json")
_ADAPTER = "adapter"


def main(arguments: Sequence[str] | None = None) -> int:
    """Push a model; returns the exit code."""
    return exit_code(_push, arguments)


def _push(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    folder, checkpoint = _checkpoint(options.run)
    if options.adapter and not (checkpoint / _ADAPTER).is_dir():
        raise UserError(f"--adapter: {checkpoint} holds no adapter, as all weights were trained; leave it out")
    _check_name(options.to)
    step = _verified(checkpoint)
    if not (checkpoint / CARD).is_file():
        try:
            write_model_card(folder, checkpoint, step)
        except OSError as error:
            raise RunFailed(f"{checkpoint}/README.md cannot be written: {error}") from error
    print(_uploaded(checkpoint, step, options))
    return 0


def _options(arguments: Sequence[str]) -> Namespace:
    parser = CliParser(PROGRAM, "RUN --to OWNER/NAME [--adapter] [--public]", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the run's folder, or RUN@STEP for one checkpoint")
    parser.add_argument("--to", metavar="OWNER/NAME", required=True, help="the repository, which is made if need be")
    parser.add_argument("--adapter", action="store_true", help="the LoRA adapter alone, for peft and engines")
    parser.add_argument("--public", action="store_true", help="let everybody see a repository that is made now")
    return parser.parse_args(arguments)


def _checkpoint(given: str) -> tuple[Path, Path]:
    """The run's folder, and the checkpoint in it that is meant."""
    name, at, step = given.rpartition("@")
    folder = user_path(name if at and step.isdecimal() else given)
    run = RunRecord.at(folder)
    found = newest_first(run.path / "checkpoints")
    if at and step.isdecimal():
        found = tuple(path for path in found if path.name == f"step-{step}")
    if not found:
        there = ", ".join(path.name.removeprefix("step-") for path in newest_first(run.path / "checkpoints")) or "none"
        raise UserError(f"{given}: that run has no such checkpoint; it has those of: {there}")
    return run.path, found[0]


def _verified(checkpoint: Path) -> int:
    """The steps that a checkpoint was trained for, after its bytes were compared with what was written."""
    try:
        return open_verified(checkpoint).state.version
    except DamagedCheckpoint as damaged:
        raise UserError(f"{damaged}; name another checkpoint as RUN@STEP") from None


def _check_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--to {name} is no name of a repository ({reason}); give one as owner/name") from None


def _uploaded(checkpoint: Path, step: int, options: Namespace) -> str:
    """The address of the model on the hub, once all its files are there.

    Raises:
        UserError: the hub does not know who asks, or refuses it.
        RunFailed: it does not answer, or fails.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        url = api.create_repo(options.to, private=not options.public, exist_ok=True)
        message = f"Checkpoint after {step} steps"
        if options.adapter:
            api.upload_folder(repo_id=options.to, folder_path=checkpoint / _ADAPTER, commit_message=message)
            api.upload_file(
                repo_id=options.to, path_or_fileobj=checkpoint / CARD, path_in_repo=CARD, commit_message="Model card"
            )
        else:
            api.upload_folder(
                repo_id=options.to, folder_path=checkpoint, ignore_patterns=list(_STAYS), commit_message=message
            )
    except LocalTokenNotFoundError:
        raise UserError(f"{api.endpoint} asks who you are: `hf auth login`, or HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if status in (401, 403):
            raise UserError(
                f"{api.endpoint} refuses to write {options.to} ({status}): log in as somebody who may, with a token "
                "that writes (`hf auth login`, or HF_TOKEN)"
            ) from None
        raise RunFailed(f"{api.endpoint} did not take {options.to}: {reason}; try again") from error
    except Exception as error:  # what its HTTP client raises is of another package from version to version
        raise RunFailed(f"{api.endpoint} cannot be reached: {error}; try again") from error
    return str(url)


if __name__ == "__main__":
    sys.exit(main())
