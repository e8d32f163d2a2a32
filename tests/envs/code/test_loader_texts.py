"""Values that public sets keep as text: read without running anything, or refused."""

import base64
import pickle
import zlib

import pytest

from openzaya.core.errors import DataError
from openzaya.envs.code.sources.leetcode import read_arguments
from openzaya.envs.code.sources.livecodebench import inflate, private_tests, read_pickled_text
from openzaya.envs.code.sources.records import SkipError


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("text", ["", "[]", "x" * 300, "y" * 100_000, "\u00e9\u4e16\U0001f600"])
def test_a_pickled_text_is_read_without_unpickling(text, protocol):
    assert read_pickled_text(pickle.dumps(text, protocol)) == text


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Trap()),
        pickle.dumps([Trap(), "text"]),
        pickle.dumps(["text"]),
        pickle.dumps(b"bytes"),
        pickle.dumps("text", 0),
        pickle.dumps("text")[:-1],
        pickle.dumps("text") + b"x",
        pickle.dumps("text") + pickle.dumps(Trap()),
        b"",
        b"\x8c\xff.",
    ],
)
def test_every_other_pickle_is_refused(data):
    with pytest.raises(SkipError):
        read_pickled_text(data)
    with pytest.raises(SkipError):
        private_tests(base64.b64encode(zlib.compress(data)).decode())


def test_a_bomb_is_not_inflated():
    bomb = zlib.compress(bytes(10_000_000))
    with pytest.raises(SkipError, match="too large"):
        inflate(bomb, limit=1_000_000)
    with pytest.raises(SkipError, match="cut"):
        inflate(bomb[:-10])


@pytest.mark.parametrize(
    "text",
    [
        "a = open('x')",
        "1, 2",
        "**{'a': 1}",
        "a = 1, a = 2",
        "a = (1, 2)",
        "a = 1) + f(b = 2",
        "a =",
    ],
)
def test_inputs_that_are_no_plain_values_are_refused(text):
    with pytest.raises(DataError):
        read_arguments(text)
