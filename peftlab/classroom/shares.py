"""What each lesson counts in a course: its share of 100 points, however many points its exercises have among themselves."""

SHARES = {
    "00-start-here": 1, "01-what-fine-tuning-costs": 6, "02-rank-decomposition": 6, "03-lora": 9, "04-lora-family": 6,
    "05-adapters": 6, "06-prompts-and-prefixes": 7, "07-small-and-strong": 5, "08-one-family": 6, "09-forgetting": 8,
    "10-a-fair-comparison": 7, "11-four-bits": 6, "12-one-base-many-tasks": 7, "13-the-library-and-beyond": 6,
    "14-choose-and-capstone": 14,
}  # fmt: skip


def of_hundred(scores, most):
    """A student's course mark: the lessons' shares, each as far as it was earned; a course of some lessons adds up to 100 too.

    scores: {lesson: points}, most: {lesson: all its points} of the lessons in the course. None where none of them has a share.
    """
    counted = {name: SHARES[name] for name in most if name in SHARES and most[name]}
    if not counted:
        return None
    earned = sum(share * scores.get(name, 0) / most[name] for name, share in counted.items())
    return 100 * earned / sum(counted.values())
