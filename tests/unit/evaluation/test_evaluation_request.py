"""What does not fit is told before an engine starts, with the number or the problem."""

import pytest

from tests.fakes.chat_tokenizers import ChatFolder
from tests.fakes.tiny_chat_model import save_tokenizer
from unisd_rl.config.rollout import RolloutConfig
from unisd_rl.errors import UserError
from unisd_rl.evaluation.request import check_question_lengths, check_same_tokens
from unisd_rl.models.tokenizer import ChatTokenizer
from unisd_rl.tasks.arithmetic import Arithmetic

TASK = Arithmetic(train_examples=1, eval_examples=5, seed=0)


@pytest.fixture
def folder(tmp_path):
    save_tokenizer(tmp_path)
    return tmp_path


def test_a_problem_that_does_not_fit_is_refused_with_the_limit(folder):
    tokenizer = ChatTokenizer(folder)
    longest = max(len(tokenizer.encode(TASK.student_messages(one))) for one in TASK.evaluation)
    check_question_lengths(tokenizer, TASK, "sums", RolloutConfig(max_prompt_tokens=longest))
    with pytest.raises(UserError, match=rf"5 of 5 held-out problems of sums .*max_prompt_tokens = {longest - 1}"):
        check_question_lengths(tokenizer, TASK, "sums", RolloutConfig(max_prompt_tokens=longest - 1))


def test_a_problem_that_leaves_the_model_no_positions_for_its_answer_is_refused(tmp_path):
    tokenizer = ChatTokenizer(ChatFolder(config={"max_position_embeddings": 100}).save(tmp_path))
    check_question_lengths(tokenizer, TASK, "sums", RolloutConfig(max_completion_tokens=10))
    with pytest.raises(
        UserError, match=r"of sums of \d+ tokens and .*max_completion_tokens = 90 are more than the 100"
    ):
        check_question_lengths(tokenizer, TASK, "sums", RolloutConfig(max_completion_tokens=90))


def test_a_gold_completion_that_leaves_the_models_positions_is_refused_where_retention_reads_it(tmp_path):
    tokenizer = ChatTokenizer(ChatFolder(config={"max_position_embeddings": 40}).save(tmp_path))
    with pytest.raises(UserError, match=r"--retention: problem .* and its gold completion, \d+ tokens, are more than"):
        check_same_tokens(tokenizer, tokenizer, TASK, "model")


def test_a_base_that_reads_the_same_tokens_is_accepted_and_another_is_not(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_tokenizer(other)
    check_same_tokens(ChatTokenizer(folder), ChatTokenizer(other), TASK, "model")
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text(template.replace("assistant", "helper"))
    with pytest.raises(UserError, match="the base and model turn problem "):
        check_same_tokens(ChatTokenizer(folder), ChatTokenizer(other), TASK, "model")
