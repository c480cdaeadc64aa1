"""The method as one would write it on paper: plain lists, one draw at a time, all recomputed before every draw."""

import math


def ucb_beta(
    members: list[list[int]], rewards: list[float], cold_start: list[int], limit: int, beta: float, official: bool
) -> list[int]:
    """Return the samples drawn, in order: `members[k]` are arm k's in its order of draws."""
    drawn = [list(arm[:cold]) for arm, cold in zip(members, cold_start, strict=True)]
    order = [sample for arm in drawn for sample in arm]
    while len(order) < limit:
        observed = [[rewards[sample] for sample in arm] for arm in drawn]
        live = [k for k, arm in enumerate(members) if len(drawn[k]) < len(arm)]
        if not live:
            break
        best = max(live, key=lambda k: (mean(observed[k]) + beta * deviation(observed, k, official), -k))
        sample = members[best][len(drawn[best])]
        drawn[best].append(sample)
        order.append(sample)
    return order


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def squares(values: list[float]) -> float:
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


def deviation(observed: list[list[float]], k: int, official: bool) -> float:
    """Population deviation, or the sample deviation with the pooled variance counting as four draws."""
    if official:
        return math.sqrt(squares(observed[k]) / len(observed[k]))
    played = [arm for arm in observed if arm]
    freedom = sum(len(arm) - 1 for arm in played)
    pooled = math.fsum(squares(arm) for arm in played) / max(freedom, 1)
    return math.sqrt((squares(observed[k]) + 4 * pooled) / (len(observed[k]) - 1 + 4))
