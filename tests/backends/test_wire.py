import asyncio

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openzaya.backends.client import Client, Exchange
from openzaya.backends.wire import MAX_HEAD_BYTES, ResponseParser, WireError
from openzaya.core.errors import ConfigError

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\nTrailer: 1\r\n\r\n"
)
WITHOUT_TRAILER = CHUNKED.replace(b"Trailer: 1\r\n", b"")


def parse(parts, ends=True):
    """Status, body and whether the connection may stay; None for what is refused."""
    heads, body = [], bytearray()
    parser = ResponseParser(heads.append, body.extend)
    try:
        for part in parts:
            parser.feed(part)
        if ends and not parser.is_over:
            parser.finish()
    except WireError:
        return None
    return (heads[0].status, bytes(body), parser.can_stay) if parser.is_over else "open"


def by_h11(data: bytes):
    """The same by h11."""
    connection = h11.Connection(our_role=h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


@given(size=st.integers(1, 40), response=st.sampled_from([PLAIN, CHUNKED, WITHOUT_TRAILER]))
@settings(max_examples=60, deadline=None)
def test_a_response_is_the_same_however_it_is_cut(size, response):
    parts = [response[i : i + size] for i in range(0, len(response), size)]
    assert parse(parts, ends=False) == parse([response], ends=False)
    assert parse(parts)[1] == (b"hello" if response is PLAIN else b"hello!")
    assert parse(parts)[2]


PIECES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n",
        b"HTTP/2 200\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5_0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Connection: close\r\n",
        b"X: y\r\n",
        b" folded\r\n",
        b"No colon\r\n",
        b"Bad name : x\r\n",
        b"X: \x00\r\n",
        b"\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"0\r\n",
        b"\n",
        b"\r",
    ]
)


@given(start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]), rest=st.lists(PIECES, max_size=7))
@example(b"HTTP/1.1 200 OK\r\n", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
@settings(max_examples=600, deadline=None)
def test_what_h11_refuses_is_refused_and_what_both_take_is_the_same(start, rest):
    data = start + b"".join(rest)
    ours, theirs = parse([data]), by_h11(data)
    if ours is None:
        return
    # After the body h11 reads on: what follows it is the next response, or nothing.
    assert theirs is not None
    assert (ours[0], ours[1]) == theirs


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXY0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 300,
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + PLAIN,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD_BYTES,
        b"<html>no</html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
def test_unclear_and_unfinished_responses_are_refused(data):
    assert parse([data]) is None


def test_a_body_without_length_ends_with_the_connection_which_then_is_not_used_again():
    data = b"HTTP/1.1 200 OK\r\n\r\nhello"
    assert parse([data], ends=False) == "open"
    assert parse([data]) == (200, b"hello", False)
    assert parse([PLAIN + b"more"]) == (200, b"hello", False)
    assert parse([PLAIN.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")])[2] is False


class Collected(Exchange):
    """Keeps what comes."""

    def __init__(self):
        self.body, self.over = b"", asyncio.get_running_loop().create_future()

    def on_head(self, head):
        self.head = head

    def on_body(self, data):
        self.body += data

    def on_end(self):
        self.over.set_result(None)

    def on_error(self, error):
        self.over.set_exception(error)


def talk(answers, asks: int):
    """Ask a server that gives these answers to the requests of each connection; what came back."""
    connections = []

    async def handle(reader, writer):
        connections.append(writer)
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
            await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
            writer.write(answer)
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, 5.0)
            came = []
            for _ in range(asks):
                exchange = Collected()
                await client.start("POST", "/", b"{}", exchange)
                try:
                    await exchange.over
                    came.append(exchange.body)
                except (WireError, OSError) as error:
                    came.append(type(error))
                await asyncio.sleep(0.02)
            await client.close()
            return came, len(connections)

    return asyncio.run(asyncio.wait_for(main(), 20))


def test_a_connection_serves_one_request_after_another():
    assert talk([PLAIN, CHUNKED, PLAIN], 3) == ([b"hello", b"hello!", b"hello"], 1)


def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again():
    assert talk([PLAIN + PLAIN], 2) == ([b"hello", b"hello"], 2)


def test_a_kept_connection_that_the_server_closed_is_replaced_unseen():
    assert talk([PLAIN], 3) == ([b"hello"] * 3, 3)


def test_garbage_and_a_broken_answer_are_errors():
    assert talk([b"hello?\r\n\r\n"], 1)[0] == [WireError]
    assert talk([PLAIN[:-2]], 1)[0] == [WireError]


@pytest.mark.parametrize("url", ["http://", "http://a b", "http://x:port", "http://\u00e9"])
def test_addresses_that_are_none_are_refused(url):
    with pytest.raises(ConfigError, match="http://host:port"):
        Client(url, {}, 1.0)


def test_a_key_with_a_line_break_cannot_smuggle_a_header():
    with pytest.raises(ConfigError, match="Authorization"):
        Client("http://x", {"Authorization": "Bearer a\r\nX: y"}, 1.0)
