"""What a client feels of the gateway's sockets."""

import asyncio
import socket

from openzaya.serve.config import ServeConfig
from openzaya.serve.wire import listen


def test_small_answers_leave_at_once():
    """Nagle's algorithm with a delayed ACK costs 40 ms for each answer on a kept connection."""

    async def main() -> int:
        seen: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ours = writer.get_extra_info("socket")
            seen.set_result(ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen(ServeConfig(port=0))
        listener.listen()
        port = listener.getsockname()[1]
        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
            found = await seen
            writer.close()
            return found

    assert asyncio.run(main()) != 0
