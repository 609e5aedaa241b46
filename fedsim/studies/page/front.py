"""Which cells no other beats: the Pareto front of leakage and gain."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the points (leakage, gain) that no other beats, from the least leakage on.

    One beats another that leaks no less and gains no more, and differs: points alike are all on the front.
    """
    order = sorted(range(len(points)), key=lambda place: (points[place][0], -points[place][1]))
    found: list[int] = []
    for place in order:
        last = points[found[-1]] if found else None
        if last is None or points[place][1] > last[1] or points[place] == last:
            found.append(place)
    return found
