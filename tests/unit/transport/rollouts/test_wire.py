"""What an actor is told and asks is the same on both sides of the wire."""

from hypothesis import given
from hypothesis import strategies as st

from unisd_rl.transport.rollouts.dispatch import CommitAnswer, LeaseRequest
from unisd_rl.transport.rollouts.wire import pack_answer, pack_request, unpack_answer, unpack_request
from unisd_rl.types import Message, NumberedPrompt, PolicyVersion, Prompt, Source, View, ViewKind

TEXT, NUMBER, SEED = (
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**64 - 1),
)
MESSAGES = st.lists(st.builds(Message, TEXT, TEXT, TEXT), max_size=3).map(tuple)
VIEWS = st.lists(st.builds(View, st.sampled_from(ViewKind), MESSAGES), max_size=3).map(tuple)
PROMPTS = st.builds(Prompt, TEXT, MESSAGES, VIEWS, st.none() | TEXT)
NUMBERED = st.builds(NumberedPrompt, NUMBER, SEED, PROMPTS, st.sampled_from(Source))
REQUESTS = st.builds(LeaseRequest, st.builds(PolicyVersion, NUMBER, NUMBER), NUMBER)


@given(st.builds(CommitAnswer, st.lists(NUMBERED, max_size=3), st.booleans()))
def test_an_answer_is_the_same_after_the_wire(answer):
    found = unpack_answer(pack_answer(answer))
    assert found == answer
    assert all(type(prompt.source) is Source for prompt in found.prompts)


@given(TEXT, st.none() | REQUESTS)
def test_a_request_is_the_same_after_the_wire(actor, request):
    assert unpack_request(pack_request(actor, request)) == (actor, request)
