"""The fixed binary tree along which the gradients of M microbatches are summed, whoever holds them.

Level 0 are the microbatches 0 to M - 1. Level l + 1 holds the sums of 2i and 2i + 1 of level l; an odd
one at the end moves up as it is. A node (level, i) covers the microbatches [i * 2^level, (i + 1) * 2^level).

A rank owns a block of consecutive microbatches. It adds them up into the largest subtrees that lie in
its block, and between ranks only these subtree sums are exchanged. Floating-point addition is not
associative, but every sum is made of the same additions at any number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

from dtrain.backend import Array, xp_of

__all__ = ["Additions", "Block", "Node", "naive_sum", "subtrees"]

Node = tuple[int, int]


def naive_sum(leaves: Sequence[Array]) -> Array:
    """The sum of all leaves along the tree, level by level: what everything else here must equal."""
    level = list(leaves)
    while len(level) > 1:
        pairs = [level[i] + level[i + 1] for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def subtrees(block: range) -> list[Node]:
    """The largest subtrees that cover the microbatches of `block`, from left to right."""
    nodes = []
    lo, hi = block.start, block.stop
    while lo < hi:
        level = (lo & -lo).bit_length() - 1 if lo else (hi - lo).bit_length()
        while lo + (1 << level) > hi:
            level -= 1
        nodes.append((level, lo >> level))
        lo += 1 << level
    return nodes


class Block:
    """How a rank adds up its microbatches: a binary counter whose digits are subtree sums.

    Microbatch j is met with `depth` sums waiting in slots 0 to depth - 1; it is added to the last one,
    that to the one before, and so on, `carries` times. plan[k] = (depth, carries) for the k-th microbatch.
    slots: how many sums wait at most (log2 of the block's size + 2); nodes: those that remain at the end.
    """

    def __init__(self, block: range) -> None:
        self.plan: list[tuple[int, int]] = []
        self.nodes: list[Node] = []
        self.slots = 0
        for j in block:
            depth, carries = len(self.nodes), 0
            node = (0, j)
            while self.nodes and node[1] % 2 and self.nodes[-1] == (node[0], node[1] - 1):
                self.nodes.pop()
                node = (node[0] + 1, node[1] // 2)
                carries += 1
            self.nodes.append(node)
            self.plan.append((depth, carries))
            self.slots = max(self.slots, len(self.nodes))


class Additions:
    """The additions of the tree that can be made among some subtree sums; worked out once, made often.

    nodes: which subtrees the rows are, in any order; none twice. rest, rest_nodes: the rows that remain
    when all of them are made, from left to right; one, the root, if the nodes cover all microbatches.
    """

    def __init__(self, nodes: Sequence[Node], microbatches: int) -> None:
        self.steps: list[tuple[int, int]] = []
        left = {node: row for row, node in enumerate(nodes)}
        level, width = 0, microbatches
        while width > 1:
            for i in range(0, width, 2):
                a, b = left.get((level, i)), left.get((level, i + 1))
                if a is None or (b is None and i + 1 < width):
                    continue  # inside a subtree that is summed already, or its other half is elsewhere
                del left[level, i]
                left[level + 1, i // 2] = a
                if b is not None:
                    del left[level, i + 1]
                    self.steps.append((a, b))
            width = (width + 1) // 2
            level += 1
        self.rest_nodes = sorted(left, key=lambda node: node[1] << node[0])
        self.rest = [left[node] for node in self.rest_nodes]

    def make(self, rows: Sequence[Array]) -> list[Array]:
        """Add rows up, in place; returns those that remain."""
        for a, b in self.steps:
            top = rows[a]
            top += rows[b]
        return [rows[i] for i in self.rest]

    def finish(self, rows: Sequence[Array], out: Array) -> None:
        """Write the root into `out`, which may be one of the rows; these are overwritten."""
        *steps, last = self.steps or [(0, 0)]
        for a, b in steps:
            top = rows[a]
            top += rows[b]
        if self.steps:
            xp_of(out).add(rows[last[0]], rows[last[1]], out=out)
        elif rows[0] is not out:
            out[...] = rows[0]

    def total(self, rows: Sequence[Array]) -> Array:
        """The root; rows stay as they are."""
        sums = list(rows)
        for a, b in self.steps:
            sums[a] = sums[a] + sums[b]
        return sums[self.steps[-1][0] if self.steps else 0]

    def calls(self, rows: Sequence[Array], out: Array) -> list[tuple[Array, Array, Array]]:
        """Arguments of `add` that, one after the other, write the root into `out`, and nothing into the two or more
        rows."""
        left, calls = list(rows), []
        for a, b in self.steps:
            total = out if (a, b) == self.steps[-1] else xp_of(out).empty_like(out)
            calls.append((left[a], left[b], total))
            left[a] = total
        return calls
