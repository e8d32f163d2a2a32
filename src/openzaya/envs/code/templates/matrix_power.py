"""Powers of a small matrix."""

from random import Random

from openzaya.envs.code.grammar import Given, Grid, Whole, integers

STATEMENT = (
    "Multiply the square matrix by itself so that it occurs `power` times (power 0 gives the unit "
    "matrix), all numbers modulo the modulus. Return the first row of the result and the sum of "
    "its diagonal modulo the modulus."
)
INPUTS = {
    "matrix": Grid(integers(1, 4, 0, 9), 1, 4),
    "power": Whole(0, 50),
    "modulus": Whole(1, 99),
}
OUTPUT = "a list: the first row, then the sum of the diagonal"
REJECTED: tuple[Given, ...] = (
    {"matrix": [[1, 2]], "power": 1, "modulus": 7},
    {"matrix": [[1]], "power": 51, "modulus": 7},
    {"matrix": [[1]], "power": 1, "modulus": 0},
)
MAX_SIZE = 16


def valid(given: Given) -> bool:
    """The matrix is square."""
    return len(given["matrix"]) == len(given["matrix"][0])


def generate(rng: Random, size: int) -> Given:
    """2 by 2 up to 4 by 4."""
    n = rng.randint(1 + (size > 2), min(4, 2 + size // 5))
    matrix = [[rng.randint(0, min(9, 2 + size // 2)) for _ in range(n)] for _ in range(n)]
    return {
        "matrix": matrix,
        "power": rng.randint(0, min(50, 2 + size)),
        "modulus": rng.randint(1, min(99, 10 + 4 * size)),
    }


SOLUTIONS = (
    """\
def solve(matrix, power, modulus):
    n = len(matrix)
    result = [[(1 if i == j else 0) % modulus for j in range(n)] for i in range(n)]
    for _ in range(power):
        product = []
        for i in range(n):
            row = []
            for j in range(n):
                row.append(sum(result[i][k] * matrix[k][j] for k in range(n)) % modulus)
            product.append(row)
        result = product
    trace = 0
    for i in range(n):
        trace += result[i][i]
    return [result[0], trace % modulus]
""",
    """\
def solve(matrix, power, modulus):
    def times(a, b):
        return [[sum(x * y for x, y in zip(row, column)) % modulus for column in zip(*b)]
                for row in a]
    size = len(matrix)
    answer = [[int(i == j) % modulus for j in range(size)] for i in range(size)]
    factor = matrix
    while power:
        if power & 1:
            answer = times(answer, factor)
        factor = times(factor, factor)
        power >>= 1
    return [answer[0], sum(answer[i][i] for i in range(size)) % modulus]
""",
)
