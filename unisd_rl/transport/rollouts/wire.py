"""Commits as bytes, both ways: what Ray pickles takes ten times as long as the rest of a small commit.

    actor   pack_request --> ServedQueue.commit_packed --> unpack_request     commit
    actor   unpack_answer <------------------------------- pack_answer

Ray hands bytes on as they are. These are MessagePack; nobody but the processes of one run reads them.
"""

import msgspec

from unisd_rl.transport.rollouts.dispatch import CommitAnswer, LeaseRequest

_ENCODER = msgspec.msgpack.Encoder()
_REQUEST = msgspec.msgpack.Decoder(tuple[str, LeaseRequest | None])
_ANSWER = msgspec.msgpack.Decoder(CommitAnswer)


def pack_request(actor: str, request: LeaseRequest | None) -> bytes:
    """Who commits, and what it asks for."""
    return _ENCODER.encode((actor, request))


def unpack_request(data: bytes) -> tuple[str, LeaseRequest | None]:
    """The inverse of `pack_request`."""
    return _REQUEST.decode(data)


def pack_answer(answer: CommitAnswer) -> bytes:
    """The answer to a commit."""
    return _ENCODER.encode(answer)


def unpack_answer(data: bytes) -> CommitAnswer:
    """The inverse of `pack_answer`."""
    return _ANSWER.decode(data)
