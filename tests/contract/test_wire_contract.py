"""Core NATS byte by byte: what the client library hides, and what a client's mistake costs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.contract.protocol import AnyBroker, Wire

Connect = Callable[..., Awaitable[Wire]]


@pytest.fixture
async def connect(own_broker: AnyBroker) -> AsyncIterator[Connect]:
    """Connects with the given CONNECT options; closes in the end."""
    opened: list[Wire] = []

    async def connect(**options: object) -> Wire:
        opened.append(await Wire.connect(own_broker, **options))
        return opened[-1]

    yield connect
    for wire in opened:
        await wire.close()


PATTERNS = [
    (b"a.b", b"a.b", True),
    (b"a.b", b"a.c", False),
    (b"a.*", b"a.b", True),
    (b"a.*", b"a.b.c", False),
    (b"a.*", b"a", False),
    (b"*", b"a", True),
    (b"*", b"a.b", False),
    (b"*.b", b"a.b", True),
    (b"a.*.c", b"a.b.c", True),
    (b"a.*.c", b"a.b.d", False),
    (b"a.*.*", b"a.b.c", True),
    (b"a.>", b"a.b.c", True),
    (b"a.>", b"a", False),
    (b"a.*.>", b"a.b.c.d", True),
    (b"a.*.>", b"a.b", False),
    (b">", b"a.b", True),
    (b"a.*", b"a.", False),
    (b"a.>", b"a..b", False),
    (b"a.b*", b"a.bc", False),
    (b"a.b*", b"a.b*", True),
    (b"a.*", b"a.*", True),
]


async def test_which_subjects_a_pattern_covers(connect: Connect) -> None:
    wire = await connect()
    for pattern, subject, matches in PATTERNS:
        said = await wire.answers(b"SUB %b 7\r\nPUB %b 2\r\nhi\r\n" % (pattern, subject))
        assert said == (b"MSG %b 7 2\r\nhi\r\n" % subject if matches else b""), (pattern, subject)
        assert await wire.answers(b"UNSUB 7\r\nPUB %b 2\r\nhi\r\n" % subject) == b""


async def test_unsubscribe_after_a_number_of_messages_counts_those_before_it(connect: Connect) -> None:
    wire = await connect()
    publish = b"PUB a  0\r\n\r\n"
    message = b"MSG a 7 0\r\n\r\n"
    assert await wire.answers(b"SUB a  7\r\n" + publish + b"UNSUB 7 3\r\n" + publish * 5) == message * 3
    assert await wire.answers(b"SUB a  8\r\n" + publish + b"UNSUB 8 1\r\n" + publish) == b"MSG a 8 0\r\n\r\n"


async def test_headers_are_framed_with_both_sizes_and_cut_off_for_who_knows_none(
    connect: Connect,
) -> None:
    plain = await connect(headers=False, no_responders=False)
    await plain.answers(b"SUB a 1\r\n")
    wire = await connect()
    sent = b"HPUB a back 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n"
    said = await wire.answers(b"SUB a 1\r\n" + sent)
    assert said == b"HMSG a 1 back 17 19\r\nNATS/1.0\r\nA:1\r\n\r\nhi\r\n"
    assert await plain.until(b"hi\r\n") == b"MSG a 1 back 2\r\nhi\r\n"


async def test_who_wants_no_echo_gets_none(connect: Connect) -> None:
    wire = await connect(echo=False)
    other = await connect()
    await other.answers(b"SUB a 1\r\n")
    assert await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b""
    assert await other.until(b"\r\n\r\n") == b"MSG a 1 0\r\n\r\n"


async def test_one_of_a_queue_group_and_every_other_subscriber_gets_a_message(connect: Connect) -> None:
    wire = await connect()
    said = await wire.answers(b"SUB a q 1\r\nSUB a q 2\r\nSUB a 3\r\n" + b"PUB a 0\r\n\r\n" * 20)
    assert said.count(b"MSG a 3 0") == 20
    assert said.count(b"MSG a 1 0") + said.count(b"MSG a 2 0") == 20


async def test_a_request_that_nobody_hears_gets_a_503_that_names_it(connect: Connect) -> None:
    wire = await connect()
    nobody = b"HMSG in 1 38 38\r\nNATS/1.0 503\r\nNats-Subject: nobody\r\n\r\n\r\n"
    assert await wire.answers(b"SUB in 1\r\nPUB nobody in 0\r\n\r\n") == nobody
    assert await wire.answers(b"PUB nobody 0\r\n\r\n") == b"", "only who asks for an answer gets one"
    # A subject with an empty token is nobody's, whatever is subscribed.
    said = await wire.answers(b"SUB > 2\r\nPUB a. in 0\r\n\r\n")
    assert b"Nats-Subject: a.\r\n" in said


async def test_the_second_subscription_with_a_sid_is_ignored(connect: Connect) -> None:
    wire = await connect()
    said = await wire.answers(b"SUB a 1\r\nSUB b 1\r\nPUB b 0\r\n\r\nPUB a 0\r\n\r\n")
    assert said == b"MSG a 1 0\r\n\r\n"


async def test_a_subscription_to_no_subject_is_refused_and_the_connection_lives(
    connect: Connect,
) -> None:
    wire = await connect()
    assert await wire.answers(b"SUB a..b 1\r\n") == b"-ERR 'Invalid Subject'\r\n"
    assert await wire.answers(b"SUB a 1\r\nPUB a 0\r\n\r\n") == b"MSG a 1 0\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PUB " + b"a" * 5000 + b" 0\r\n\r\n", b"-ERR 'maximum control line exceeded'\r\n"),
        (b"SUB " + b"a" * 4097, b"-ERR 'maximum control line exceeded'\r\n"),
        (b"PUB a 9000000\r\n", b"-ERR 'Maximum Payload Violation'\r\n"),
        (b"NONSENSE\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a 2\r\nabc\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
        (b"PUB a\r\n", b""),
        (b"PUB a x\r\n", b""),
        (b"SUB a\r\n", b""),
        (b"HPUB a 5 3\r\nabc\r\n", b""),
    ],
)
async def test_what_breaks_the_protocol_costs_the_connection(
    connect: Connect, data: bytes, words: bytes
) -> None:
    wire = await connect()
    assert await wire.last_words(data) == words


async def test_a_subject_just_within_the_control_line_passes(connect: Connect) -> None:
    wire = await connect()
    subject = b"a" * 4094
    said = await wire.answers(b"SUB > 1\r\nPUB %b 0\r\n\r\n" % subject)
    assert said == b"MSG %b 1 0\r\n\r\n" % subject


async def test_one_clients_messages_reach_another_in_order(connect: Connect) -> None:
    wire = await connect()
    other = await connect()
    await other.answers(b"SUB a.* 1\r\n")
    numbers = range(500)
    await wire.answers(b"".join(b"PUB a.%d 3\r\n%03d\r\n" % (number % 3, number) for number in numbers))
    said = await other.until(b"499\r\n")
    assert said == b"".join(b"MSG a.%d 1 3\r\n%03d\r\n" % (number % 3, number) for number in numbers)
