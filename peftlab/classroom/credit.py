"""Partial credit: what a wrong answer earns for the parts of an exercise that it has right.

Which parts there are is data beside the exercise (`Exercise(parts=[Part(...)])`); most exercises have none, and are worth all
or nothing. A part counts only where everything it is made of is right in each of its cases, on the inputs of SEEDS seeds, and
with it what belongs to no part, such as that nothing was changed in place. An error in one of its cases leaves none of it.
"""

from .compare import difference
from .relations.evidence import expected

SEEDS = 3  # the check's own, and those that follow


def earned(exercise, seed, seen):
    """(points, a sentence that names the parts) for a wrong answer; (0, "") where it has no part right.

    `seen`: what was observed on the inputs of `seed` and of the seeds after it, SEEDS lists in all.
    """
    if len(seen) < SEEDS:
        return 0, ""
    right = {part.says for part in exercise.parts if all(_right(exercise, part, seed + k, each) for k, each in enumerate(seen))}
    counted = []
    for part in exercise.parts:
        if part.says in right and part.needs in ("", *counted):
            counted.append(part.says)
    points = sum(part.points for part in exercise.parts if part.says in counted)
    if not 0 < points < exercise.points:
        return 0, ""
    told = [f"{says} right" for says in counted] + [f"{part.says} not" for part in exercise.parts if part.says not in right]
    return points, f"{points:g} of {exercise.points:g} point{'s' * (exercise.points != 1)}: {', '.join(told)}."


def _right(exercise, part, seed, seen):
    """Is the part right on the inputs of one seed?"""
    judged = 0
    for case, a, b in zip(exercise.draw(seed), seen, expected(exercise.id, seed), strict=True):
        if part.cases and not part.cases(case):
            continue
        judged += 1
        if "error" in a or any(difference(a.get(what), value) for what, value in b.items() if _belongs(exercise, part, what)):
            return False
    return judged > 0


def _belongs(exercise, part, what):
    """Does it belong to this part, or to none? Notes of an exercise's own belong nowhere."""
    return what[0] != "_" and (what.startswith(part.seen) or not any(what.startswith(p.seen) for p in exercise.parts))
