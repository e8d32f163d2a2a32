"""Tests reach loopback and nothing else."""

import asyncio
import os
import socket

import pytest

# 192.0.2.0/24 is reserved for documentation: nothing answers there.
OUTSIDE = ("192.0.2.1", 80)


def test_connecting_beyond_this_machine_fails_the_test():
    with socket.socket() as sock, pytest.raises(pytest.fail.Exception, match="loopback only"):
        sock.connect(OUTSIDE)
    with socket.socket() as sock, pytest.raises(pytest.fail.Exception, match="loopback only"):
        sock.connect_ex(OUTSIDE)
    with pytest.raises(pytest.fail.Exception, match="loopback only"):
        socket.create_connection(OUTSIDE, timeout=0.1)


@pytest.mark.parametrize("host", ["example.org", b"example.org", "127.0.0.1.example.org"])
def test_looking_up_a_name_fails_the_test(host):
    with pytest.raises(pytest.fail.Exception, match="look up"):
        socket.getaddrinfo(host, 80)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_works(host):
    async def talk() -> bytes:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(host, port, family=socket.AF_INET)
            data = await reader.read()
            writer.close()
            await writer.wait_closed()
            return data

    assert asyncio.run(talk()) == b"hello"


def test_the_hub_is_offline_and_threads_are_single():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "1"
