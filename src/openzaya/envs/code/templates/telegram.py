"""Split a stream of digits into packets."""

from random import Random

from openzaya.envs.code.grammar import Given, Text

STATEMENT = (
    "A stream of digits consists of packets: a digit k from 1 to 5, then k digits of content, then "
    "one check digit, which should be the sum of the content digits modulo 10. A 0 where a packet "
    "should start is skipped. A packet that the stream ends within is dropped. Return the contents "
    "of the packets with a right check digit as numbers, then the number of packets with a wrong "
    "one, then the number of digits of the dropped packet."
)
INPUTS = {"stream": Text(0, 40, "0123456789")}
OUTPUT = "a list of integers"
REJECTED: tuple[Given, ...] = (
    {"stream": "6"},
    {"stream": "0019191"},
    {"stream": "x"},
    {"stream": 123},
)


def valid(given: Given) -> bool:
    """No packet starts with a digit above 5."""
    stream = given["stream"]
    place = 0
    while place < len(stream):
        if stream[place] > "5":
            return False
        place += 1 if stream[place] == "0" else int(stream[place]) + 2
    return True


def generate(rng: Random, size: int) -> Given:
    """Mostly right packets."""
    stream = ""
    while len(stream) < min(40, 2 + size):
        if rng.random() < 0.15:
            stream += "0"
            continue
        content = [rng.randint(0, 9) for _ in range(rng.randint(1, 4))]
        check = (sum(content) + rng.choice((0, 0, 0, 1))) % 10
        stream += f"{len(content)}{''.join(map(str, content))}{check}"
    return {"stream": stream[: min(40, 2 + size)]}


SOLUTIONS = (
    """\
def solve(stream):
    good = []
    wrong = 0
    dropped = 0
    i = 0
    while i < len(stream):
        k = int(stream[i])
        if k == 0:
            i += 1
            continue
        end = i + k + 1
        if end >= len(stream):
            dropped = len(stream) - i
            break
        content = stream[i + 1:end]
        if sum(map(int, content)) % 10 == int(stream[end]):
            good.append(int(content))
        else:
            wrong += 1
        i = end + 1
    return good + [wrong, dropped]
""",
    """\
def solve(stream):
    result, wrong = [], 0
    while True:
        stream = stream.lstrip("0")
        if not stream:
            return [*result, wrong, 0]
        size = int(stream[0])
        packet, stream = stream[:size + 2], stream[size + 2:]
        if len(packet) < size + 2:
            return [*result, wrong, len(packet)]
        total = number = 0
        for char in packet[1:-1]:
            total += int(char)
            number = 10 * number + int(char)
        if total % 10 != int(packet[-1]):
            wrong += 1
        else:
            result.append(number)
""",
)
