"""A line search for LBFGS: a step length that satisfies the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from dtrain.backend import Array

__all__ = ["Point", "strong_wolfe"]


class Point(NamedTuple):
    """A point on the line: how far along, the loss, its gradient, and the slope along the line."""

    t: float
    loss: float
    gradient: Array
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    t: float,
    longest: float,
    max_evaluations: int,
    tolerance_change: float = 1e-9,
    c1: float = 1e-4,
    c2: float = 0.9,
) -> tuple[Point, int]:
    """A point with loss <= start.loss + c1 t slope and |slope| <= c2 |start.slope|, and how many were evaluated.

    evaluate: gives the point at some t; start: that at 0; t: tried first; longest: the largest element of the
    direction. Where max_evaluations are used up, or the bracket is smaller than tolerance_change, the lowest point so
    far. Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6, with cubic interpolation; the constants
    are those of PyTorch and minFunc (Schmidt).
    """
    new = evaluate(t)
    evaluations, tried = 1, 0
    before = start
    bracket: list[Point] = []

    def too_high(point: Point) -> bool:
        return point.loss > start.loss + c1 * point.t * start.slope

    # Lengthen the step until a good point lies in it, or is found.
    while tried < max_evaluations:
        if too_high(new) or (tried > 1 and new.loss >= before.loss):
            bracket = [before, new]
            break
        if abs(new.slope) <= -c2 * start.slope:
            return new, evaluations
        if new.slope >= 0:
            bracket = [before, new]
            break
        bounds = (new.t + 0.01 * (new.t - before.t), new.t * 10)
        before, new = new, evaluate(_cubic_minimum(before, new, bounds))
        evaluations += 1
        tried += 1
    if not bracket:
        bracket = [start, new]

    # Shrink the bracket. Its lower end always satisfies the first condition.
    stuck = False
    low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
    while tried < max_evaluations and abs(bracket[1].t - bracket[0].t) * longest >= tolerance_change:
        left, right = sorted(point.t for point in bracket)
        t = _cubic_minimum(bracket[0], bracket[1], (left, right))
        margin = 0.1 * (right - left)
        near_end = min(right - t, t - left) < margin
        if near_end and (stuck or t >= right or t <= left):
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
            stuck = False
        else:
            stuck = near_end
        new = evaluate(t)
        evaluations += 1
        tried += 1
        if too_high(new) or new.loss >= bracket[low].loss:
            bracket[high] = new
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        if abs(new.slope) <= -c2 * start.slope:
            return new, evaluations
        if new.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = new
    return bracket[low], evaluations


def _cubic_minimum(a: Point, b: Point, bounds: tuple[float, float]) -> float:
    """Where the cubic through both points with their slopes has its minimum, within the bounds; else their middle."""
    if a.t > b.t:
        a, b = b, a
    middle = (bounds[0] + bounds[1]) / 2
    if a.t == b.t:
        return middle
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if not square >= 0:
        return middle
    d2 = math.sqrt(square)
    below = b.slope - a.slope + 2 * d2
    if below == 0:
        return middle
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / below)
    return min(max(t, bounds[0]), bounds[1])
