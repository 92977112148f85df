"""Reading a recorded sweep: seeds that are complete, each method at its own best learning rate, means with intervals."""

# A 95 % interval of a mean is this many standard errors to each side, by the number of values (Student's t).
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def complete(frame, within=None):
    """The runs of those seeds that have as many runs as the first: an unfinished seed would favour some methods.

    within: a column such as "domain". Then each of its values is looked at by itself: of each, the seeds that have most
    runs, and nothing of one with fewer than two such seeds.
    """
    if within is None:
        counts = frame.groupby("seed").size()
        return frame[frame["seed"].isin(counts[counts == counts.iloc[0]].index)]
    runs = frame.groupby([within, "seed"])["seed"].transform("size")
    whole = frame[runs == runs.groupby(frame[within]).transform("max")]
    return whole[whole.groupby(within)["seed"].transform("nunique") > 1]


def best_rates(frame, groups, by, lowest=False):
    """The runs of each group (such as ["method"]) at the learning rate whose mean of `by` over the seeds is best.

    Choose `by` so that the test is not asked: a loss in training, a validation score. Of equals, the smaller rate.
    """
    means = frame.groupby([*groups, "lr"])[by].mean().sort_index(kind="stable")
    of_each = means.groupby(level=groups, sort=False)
    chosen = of_each.idxmin() if lowest else of_each.idxmax()
    return frame.set_index([*groups, "lr"]).loc[list(chosen)].reset_index()


def interval(values):
    """(mean, half width of the 95 % interval) of a few values. Raises ValueError for fewer than two or more than ten."""
    values = list(values)
    if len(values) not in T95:
        raise ValueError(f"an interval wants 2 to {max(T95)} values and got {len(values)}")
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, T95[len(values)] * (variance / len(values)) ** 0.5
