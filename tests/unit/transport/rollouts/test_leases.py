"""A lease is exclusive, lasts as long as it is renewed, and what comes back keeps its place."""

from tests.fakes.rollout_rows import HandClock, numbered
from unisd_rl.transport.rollouts.leases import LeaseBook


def book_of(count: int) -> tuple[LeaseBook, HandClock]:
    clock = HandClock()
    book = LeaseBook(10.0, clock)
    for number in range(count):
        book.add(numbered(number))
        book.open(number)
    return book, clock


def leased(book: LeaseBook, actor: str, wanted: int, end: int = 99) -> list[int]:
    return [prompt.number for prompt in book.grant(actor, wanted, lambda prompt: prompt.number < end)]


def test_lowest_numbers_go_first_and_to_one_actor_only():
    book, _ = book_of(4)
    assert leased(book, "a", 2) == [0, 1]
    assert leased(book, "b", 9, end=3) == [2]
    assert [book.holder(number) for number in range(4)] == ["a", "a", "b", None]
    assert (book.waiting, book.leased, book.first()) == (1, 3, (numbered(3),))


def test_a_lease_expires_unless_renewed():
    book, clock = book_of(2)
    leased(book, "a", 1)
    leased(book, "b", 1)
    clock.now_s = 6.0
    book.renew("a", [0])
    assert book.until_expiry_s() == 4.0  # when what was not renewed may expire
    clock.now_s = 10.0
    assert book.expire() == [1]
    assert (book.holder(0), book.holder(1)) == ("a", None)
    clock.now_s = 16.0
    assert book.expire() == [0]


def test_what_comes_back_keeps_its_place_in_the_order():
    book, _ = book_of(5)
    leased(book, "a", 3)
    book.give_back(1)
    assert leased(book, "b", 1) == [1]
    assert book.release("a") == [0, 2]
    assert leased(book, "c", 9) == [0, 2, 3, 4]


def test_an_ended_prompt_is_forgotten_whether_leased_or_waiting():
    book, _ = book_of(3)
    leased(book, "a", 1)
    book.end(0)
    book.end(1)
    assert leased(book, "a", 9) == [2]
    assert book.release("a") == [2]


def test_what_is_being_stored_is_nobodys_until_it_is_let_go():
    book, clock = book_of(2)
    assert leased(book, "a", 2) == [0, 1]
    book.begin_commit([0])
    book.begin_commit([0])  # a second commit of the same prompt
    clock.now_s = 10.0
    assert book.expire() == [1]
    assert (book.holder(0), leased(book, "b", 9)) == (None, [1])
    book.end_commit([0], "a")
    assert book.holder(0) is None
    book.end_commit([0], "c")
    assert book.holder(0) == "c"


def test_a_lease_that_is_renewed_for_ever_leaves_one_entry_behind():
    book, clock = book_of(1)
    leased(book, "a", 1)
    for _ in range(1000):
        clock.now_s += 6.0
        book.renew("a", [0])
        assert book.expire() == []
    assert len(book._expiries) == 1


def test_leases_that_end_long_before_they_expire_leave_a_bounded_number_of_entries_behind():
    book, clock = book_of(20_000)
    leased(book, "slow", 2)
    for number in range(2, 20_000):
        assert leased(book, "a", 1, end=20_000) == [number]
        book.end(number)
    assert len(book._expiries) <= 1024 + 2 * 2
    clock.now_s = 10.0
    assert book.expire() == [0, 1]
