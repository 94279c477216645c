"""Multiple choice: what a completion states, and how a question is put."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.tasks.multiple_choice import MultipleChoice, Question, options_of, reshuffled, stated_letter, to_example

OPTIONS = {"A": "a dog", "B": "because of rain", "C": "future tense", "D": "42"}
QUESTION = Question("Which?", tuple(OPTIONS.values()), right=1)
EXAMPLE = to_example("q", QUESTION, "It rained.")

STATEMENTS = [
    ("Answer: B", "B"),
    ("Answer: b", "B"),
    ("answer:B", "B"),
    ("ANSWER = B", "B"),
    ("Answer: (B)", "B"),
    ("Answer: [b].", "B"),
    ("Answer: {B}", "B"),
    ("Answer: <B>", "B"),
    ('Answer: "B"', "B"),
    ("Answer: \u201cB\u201d", "B"),
    ("**Answer: B**", "B"),
    ("**Answer:** B", "B"),
    ("Answer: `B`", "B"),
    ("### Answer: __B__", "B"),
    ("Answer: $\\boxed{B}$", "B"),
    ("Answer: \\textbf{B}", "B"),
    ("Answer:\n\nB", "B"),
    ("Answer: B. because of rain", "B"),
    ("Answer: B) because of rain", "B"),
    ("Answer: B - because of rain", "B"),
    ("Answer: option B", "B"),
    ("Answer: B because it rained", "B"),
    ("Answer: B, because A is a dog", "B"),
    ("Answer: B\nI hope that this helps. A good day!", "B"),
    ("The answer is B.", "B"),
    ("So the answer is: (b)", "B"),
    ("The correct answer is option C", "C"),
    ("Answer: A\nNo, wait.\nAnswer: B", "B"),
    ("Answer: B\nAnswer: A", "A"),
    ("The answer is A. Hence Answer: B", "B"),
    ("Answer: A because dogs bark", "A"),
    ("Answer: A a dog", "A"),
    ("Answer: (A) dog it is", "A"),
    ("Answer: because of rain", "B"),
    ("Answer: Future tense.", "C"),
    ("Answer: 42", "D"),
    ("Thinking.\nB", "B"),
    ("Thinking.\n(b).", "B"),
    ("\uff22", "B"),  # full width
    ("Answer\uff1a \uff22", "B"),
    ("Answer: \u24b7", "B"),  # circled
    # in LaTeX, and with the brackets it needs
    (r"Answer: \(B\)", "B"),
    (r"Answer: \[B\]", "B"),
    ("Answer:\n\\[\n\\boxed{B}\n\\]", "B"),
    (r"Answer: \\(B\\)", "B"),  # as it stands in JSON
    (r"Answer: $B$", "B"),
    ("Answer:\n$$\nB\n$$", "B"),
    (r"Answer: \( \textbf{(B)} \).", "B"),
    (r"Answer: $\boxed{\text{B}}$", "B"),
    (r"Answer: \boxed{\mathrm{\textbf{(B)}}}", "B"),
    (r"Answer: \boxed{\text{Option B}}", "B"),
    (r"Answer: \boxed{\text{B. because of rain}}", "B"),
    (r"Answer: \boxed{B}\ \text{because of rain}", "B"),
    (r"Answer: \left( B \right)", "B"),
    (r"\textbf{Answer:} \(B\)", "B"),
    (r"\textbf{Answer}: B", "B"),
    (r"The answer is \(\boxed{B}\).", "B"),
    ("Thinking.\n\\(B\\)", "B"),
    ("Thinking.\n\\[\n\\boxed{B}\n\\]", "B"),
    ("Answer: (option B)", "B"),
    ("Answer: B</answer>", "B"),
    ("> Answer: B", "B"),
    ("| Answer: B |", "B"),
    # an option's text
    ("Answer: $42$", "D"),
    (r"Answer: \(42\)", "D"),
    (r"Answer: \boxed{42}", "D"),
    (r"Answer: \[ \boxed{\text{future tense}} \]", "C"),
    (r"Answer: $\text{future}\ \text{tense}$", "C"),
    (r"Answer: \boxed{\text{because of \textbf{rain}}}.", "B"),
    (r"Answer: \boxed{a dog}", "A"),
    ("Answer: a dog", "A"),
    ("Answer: {A} dog", "A"),
    ("Answer: D = 42", "D"),
    # stated wrong, or not at all
    (r"Answer: \(A\) or \(B\)", None),
    (r"Answer: \(A, B\)", None),
    (r"Answer: \(A\)\(B\)", None),
    (r"Answer: \(B\) \(C\)", None),
    (r"Answer: \boxed{A}\boxed{B}", None),
    (r"Answer: \boxed{B} and \boxed{C}", None),
    (r"Answer: \boxed{\text{B or C}}", None),
    ("Answer: (B)(C)", None),
    ("Answer: B C", None),
    (r"Answer: \boxed{}", None),
    (r"Answer: \(\)", None),
    (r"Answer: \boxed{E}", None),
    (r"Answer: \boxed{BC}", None),
    (r"Answer: \boxed{\text{Because}}", None),
    (r"Answer: \boxed{A dog barks}", None),
    (r"Answer: \boxed{a cat}", None),
    (r"Answer: \boxed{\text{not B}}", None),
    (r"Answer: \(\neg B\)", None),
    (r"Answer: \(\overline{B}\)", None),
    (r"Answer: \(B = 3\)", None),
    (r"Answer: \(B^c\)", None),
    (r"Answer: \(B_1\)", None),
    (r"Answer: \(B + 1\)", None),
    (r"Answer: \(B / 2\)", None),
    (r"Answer: \(B \cup C\)", None),
    (r"Answer: \(B < 42\)", None),
    (r"Answer: \(x = B\)", None),
    (r"Answer: \(4.2\)", None),
    (r"Answer: \frac{42}{1}", None),
    (r"Answer: -42", None),
    (r"Answer: 42\%", None),
    (r"Answer: future", None),
    (r"Answer: \boxed{future tense or so}", None),
    (r"So \boxed{B}", None),  # no label, and not alone on its line
    (r"Answer: " + r"\boxed{" * 10_000, None),
    (r"Answer: " + r"\(" * 10_000 + "B" + r"\)" * 10_000, "B"),
    ("Answer: Because", None),
    ("Answer: Because it rained", None),
    ("Answer: A dog barks", None),  # the article: option A reads "a dog", this does not
    ("Answer: a cat", None),
    ("Answer: I think B", None),
    ("Answer: E", None),
    ("Answer: Evaporation", None),
    ("Answer: B'", "B"),
    ("Answer: B's", None),
    ("Answer: B2", None),
    ("Answer: AB", None),
    ("Answer: A or B", None),
    ("Answer: A and B", None),
    ("Answer: B, C", None),
    ("Answer: (A)/(B)", None),
    ("Answer: A, B or C", None),
    ("Answer: B or b", "B"),
    ("Answer: not B", None),
    ("The answer is not B", None),
    ("The answer isn't B", None),
    ("Answer: \u0412", None),  # Cyrillic
    ("Answer: \u0392", None),  # Greek
    ("Answer: 2", None),
    ("Answer: \u0662", None),  # an Arabic digit
    ("Answer:", None),
    ("Answer: B\nAnswer:", None),
    ("Nonanswer: B", None),
    ("Answers vary: B", None),
    ("B is what I would say, but A is possible", None),
    ("B. because of rain", None),  # perhaps the end of a list of options
    ("A good question.", None),
    ("", None),
    (" \n\t", None),
    ("Answer: " + "B" * 10_000, None),
    ("Answer: " + "(" * 10_000, None),
    ("\x00Answer: B\x00", "B"),
]


@pytest.mark.parametrize(("completion", "letter"), STATEMENTS)
def test_the_last_statement_counts_and_nothing_that_only_looks_like_one(completion, letter):
    assert stated_letter(completion, OPTIONS) == letter


OTHERS = {"A": "5", "B": "$5", "C": "a cat", "D": "A and C", "E": "50%", "F": "A", "G": r"\frac{1}{2}", "H": "cat"}


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("Answer: 5", None),  # A and B differ in a sign that also is markup: neither is guessed
        ("Answer: $5$", None),
        (r"Answer: \boxed{\text{a cat}}", "C"),
        ("Answer: A cat.", "C"),
        ("Answer: cat", "H"),
        ("Answer: A and C", "D"),
        ("Answer: A and B", None),
        (r"Answer: \(50\%\)", "E"),
        ("Answer: 50", None),
        ("Answer: A", "A"),  # a letter is a letter, although option F reads so
        ("Answer: F", "F"),
        (r"Answer: \(\frac{1}{2}\)", "G"),
        (r"Answer: $\boxed{\frac{1}{2}}$", "G"),
        (r"Answer: \(\frac{2}{1}\)", None),
    ],
)
def test_an_options_text_is_read_whatever_markup_it_has_itself_and_only_word_for_word(completion, letter):
    assert stated_letter(completion, OTHERS) == letter


HOSTILE = [
    "\\",
    "answer ",
    "Answer: B ",
    " ",
    ">",
    "Answer: {",
    "Answer:" + " " * 10**6 + "x",
    "Answer: B" + "}" * 10**6 + "x",
]


@pytest.mark.parametrize("piece", HOSTILE, ids=lambda piece: repr(piece[:10]))
def test_a_million_characters_are_read_in_time(piece):
    started = time.process_time()
    assert stated_letter(piece * (10**6 // len(piece) or 1), OPTIONS) in (None, "B")
    assert time.process_time() - started < 10.0  # none takes one second; a square would be days


@given(st.text())
def test_any_text_can_be_graded_and_an_answer_line_settles_it(text):
    task = MultipleChoice([EXAMPLE], [])
    assert task.grade(text, EXAMPLE) in (True, False)
    assert task.grade(f"{text}\nAnswer: B", EXAMPLE)
    assert not task.grade(f"{text}\nAnswer: C", EXAMPLE)


def test_a_text_that_two_options_have_is_right_at_either_place():
    example = to_example("q", Question("Where?", ("bank", "mall", "bank"), 0), "")
    graded = [MultipleChoice([], []).grade(f"Answer: {letter}", example) for letter in "ABC"]
    assert graded == [True, False, True]


@given(
    st.lists(st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1), min_size=2, max_size=9),
    st.data(),
)
def test_reshuffling_keeps_the_options_and_the_right_one(options, data):
    right = data.draw(st.integers(0, len(options) - 1))
    question = reshuffled("Which?", options, right, 0, "q")
    assert sorted(question.options) == sorted(options)
    assert question.options[question.right] == options[right]
    assert question == reshuffled("Which?", options, right, 0, "q")
    assert list(options_of(to_example("q", question, "")).values()) == list(question.options)


def test_the_order_differs_between_questions_and_seeds_and_every_place_is_right_for_some():
    options = ("one", "two", "three", "four")
    places = [reshuffled("Which?", options, 0, 0, str(number)).right for number in range(400)]
    assert min(places.count(place) for place in range(4)) > 60  # expected 100 each, standard deviation 9
    orders = {reshuffled("Which?", options, 0, seed, "q").options for seed in range(50)}
    assert len(orders) > 10


def test_options_of_several_lines_become_one_line_each():
    question = reshuffled("Which?", ["x\nA. y", "z\t z"], 0, 0, "q")
    assert sorted(question.options) == ["x A. y", "z z"]
    assert len(options_of(to_example("q", question, ""))) == 2


def test_the_student_reads_no_part_of_the_solution():
    (message,) = MultipleChoice([EXAMPLE], []).student_messages(EXAMPLE)
    assert message.role == "user"
    assert "It rained." not in message.content
    assert "Answer: B" not in message.content
    assert all(f"{letter}. {text}" in message.content for letter, text in OPTIONS.items())


def wrong(question, rationale, seed=3):
    """The wrong demonstrations of a question by their last lines; each is graded wrong; the seed decides the order."""
    example = to_example("q", question, rationale)
    task = MultipleChoice([example], [])
    texts = list(task.wrong_demonstrations(example, seed))
    assert texts == list(task.wrong_demonstrations(example, seed))
    assert not any(task.grade(text, example) for text in texts)
    return {text.rpartition("\n")[2]: text.rpartition("\n")[0] for text in texts}


CITIES = Question("Where is the Louvre?", ("Rome", "Paris", "a big port", "Paris"), 1)


def test_a_wrong_demonstration_argues_for_the_option_that_it_states():
    assert wrong(CITIES, "Paris has it, not Rome. So option B, whatever Paris's port.") == {
        "Answer: A": "Rome has it, not Paris. So option A, whatever Rome's port.",
        "Answer: C": "A big port has it, not Rome. So option C, whatever A big port's port.",
    }


def test_a_rationale_that_names_no_option_is_denied_and_never_left_as_it_was():
    assert set(wrong(CITIES, "It is on the Seine. Most of it was a palace, and it has a pyramid.").values()) == {
        "It is not on the Seine. Most of it was not a palace, and it has a pyramid."
    }
    assert set(wrong(CITIES, "The river flows north through it").values()) == {"The river flows south through it"}


def test_a_rationale_in_which_nothing_can_be_denied_gives_way_to_the_wrong_option():
    assert wrong(CITIES, "the Seine") == {
        "Answer: A": "The option that fits is: Rome",
        "Answer: C": "The option that fits is: a big port",
    }
    assert wrong(CITIES, "") == {"Answer: A": "", "Answer: C": ""}
