"""Sums over subtrees."""

from random import Random

from openzaya.envs.code.grammar import Fixed, Given, Items, Whole

STATEMENT = (
    "Node 0 is the root of a tree and has value 0. Line i (from 1) describes node i: its parent, "
    "which has a smaller number, and its value. A node's subtree is the node and everything below "
    "it. Print for every node from 0 on the sum of the values in its subtree, and on the next line "
    "the number of the node with the largest sum; of several take the smallest number."
)
INPUTS = {"nodes": Items(Fixed((Whole(0, 19), Whole(-50, 50))), 1, 20)}
LAYOUT = ("#nodes", "nodes*")
OUTPUT = "a line with all sums, then a line with one node"
REJECTED: tuple[Given, ...] = ({"nodes": [[1, 0]]}, {"nodes": []}, {"nodes": [[0, 51]]})
MAX_SIZE = 20


def valid(given: Given) -> bool:
    """A parent has a smaller number than its child."""
    return all(parent <= i for i, (parent, _) in enumerate(given["nodes"]))


def generate(rng: Random, size: int) -> Given:
    """Values of both signs."""
    count = rng.randint((size + 1) // 2, size)
    return {"nodes": [[rng.randint(0, i), rng.randint(-9, 9)] for i in range(count)]}


SOLUTIONS = (
    """\
n = int(input())
parent, total = [0], [0]
for _ in range(n):
    above, value = map(int, input().split())
    parent.append(above)
    total.append(value)
for node in range(n, 0, -1):
    total[parent[node]] += total[node]
best = 0
for node in range(1, n + 1):
    if total[node] > total[best]:
        best = node
print(*total)
print(best)
""",
    """\
count = int(input())
children = {}
values = {0: 0}
for node in range(1, count + 1):
    words = input().split()
    values[node] = int(words[1])
    children.setdefault(int(words[0]), []).append(node)

def subtree(node):
    return values[node] + sum(subtree(child) for child in children.get(node, []))

sums = [subtree(node) for node in range(count + 1)]
print(" ".join(str(s) for s in sums))
print(sums.index(max(sums)))
""",
)
