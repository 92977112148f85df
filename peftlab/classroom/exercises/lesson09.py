"""Lesson 09, forgetting: a matrix of tasks, what it says, three measures of loss, and an adapter chosen without being told.

R[i][j] is how well task j is done after learning task i, both counted from zero.
"""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import article, given

LESSON = "09-forgetting"


def draws(seed):
    """A function that draws normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw)


# ================================================================ predict

switching = Question(
    "forgetting-frozen",
    lesson=LESSON,
    title="The base is frozen",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="A model writes numbers in English, Spanish and French. You freeze it and train ten prompt vectors on Italian. With "
    "the prompt still in place you ask it for English. What of its English is left?",
    options={
        "a": (
            "all: no weight has changed",
            "No weight has. Is an answer made by the weights alone, or also by what stands before the question?",
        ),
        "b": (
            "about as much as after LoRA of rank 1, which is just as frozen underneath",
            "The two act in different places. Does anything that they share make them equal on top of the frozen base?",
        ),
        "c": (
            "that is not decided by freezing: it has to be measured",
            "Freezing promises that you can go back. What the model does while the adapter is on is another question.",
        ),
        "d": ("none: prompts always erase", "Always is a strong word. What would a prompt of no influence do?"),
    },
    right="c",
)


# ================================================================ the matrix

matrix = Exercise(
    "forgetting-matrix",
    lesson=LESSON,
    title="A row for every task learnt",
    signature="forgetting_matrix(model, tasks, learn, test)",
    why="Everything that is said about learning tasks one after another is read from this table.",
    points=2,
    minutes=8,
    difficulty=1,
    hints=[
        "There are two loops, one inside the other. What happens once for each row, and what once for each entry?",
        "A row is measured *after* its task was learnt, on all tasks: those learnt already, this one, and those to come.",
    ],
)


class Pupil:
    """Stands for a model: each task learnt adds a skill and takes from the others."""

    def __init__(self, tasks, seed):
        draw = draws(seed)
        self.skill = {task: float(draw(1).abs()) for task in tasks}
        self.cost = {(a, b): float(draw(1).abs()) / 3 for a in tasks for b in tasks}


def is_a_model(model, name):
    if not isinstance(model, Pupil):
        raise Unexpected(
            f"`{name}` was given {article(type(model).__name__)} as its model. `learn` changes the model that it gets and returns "
            "nothing: what does your `model` stand for after that line?"
        )


@matrix.cases
def matrix_cases(seed):
    return [
        Case(f"{len(tasks)} tasks: {', '.join(tasks)}", tasks=tasks, seed=seed + len(tasks))
        for tasks in (["it", "ro", "de"], ["a", "b"], ["w", "x", "y", "z"])
    ]


@matrix.observe
def look_matrix(answer, case):
    pupil, calls = Pupil(case.tasks, case.seed), []

    def learn(model, task):
        is_a_model(model, "learn")
        calls.append(f"learn {task}")
        for other in model.skill:
            model.skill[other] += 2 if other == task else -model.cost[task, other] * model.skill[other]

    def test(model, task):
        is_a_model(model, "test")
        return round(model.skill[task], 6)

    R = answer(pupil, list(case.tasks), learn, test)
    rows = R.tolist() if hasattr(R, "tolist") else [list(row) for row in given(R, list, "`forgetting_matrix`")]
    return {
        "learnt": calls,
        "rows": len(rows),
        "entries in each row": [len(row) for row in rows],
        "matrix": torch.tensor([float(v) for row in rows for v in row]),
        "the skill of the model you were given, at the end": {task: round(v, 6) for task, v in pupil.skill.items()},
    }


@matrix.solution
def two_loops(model, tasks, learn, test):
    R = []
    for task in tasks:
        learn(model, task)
        R.append([test(model, other) for other in tasks])
    return R


@matrix.solution
def filled_in(model, tasks, learn, test):
    R = torch.zeros(len(tasks), len(tasks), dtype=torch.float64)
    for i in range(len(tasks)):
        learn(model, tasks[i])
        for j in range(len(tasks)):
            R[i, j] = test(model, tasks[j])
    return R


@matrix.solution
def mapped(model, tasks, learn, test):
    def after(task):
        learn(model, task)
        return [test(model, t) for t in tasks]

    return list(map(after, tasks))


@matrix.slip("Each row is measured before its task is learnt. What should the diagonal hold?")
def tests_first(model, tasks, learn, test):
    R = []
    for task in tasks:
        R.append([test(model, other) for other in tasks])
        learn(model, task)
    return R


@matrix.slip("Rows and columns have changed places. Which index says what was learnt last?")
def turned(model, tasks, learn, test):
    return torch.tensor(two_loops(model, tasks, learn, test)).T


@matrix.slip(
    "All tasks are learnt before anything is measured, so that all rows are the same. When is row i to be measured?"
)
def all_first(model, tasks, learn, test):
    for task in tasks:
        learn(model, task)
    return [[test(model, other) for other in tasks] for _ in tasks]


@matrix.slip("What is not learnt yet has no number. A model may do a task it was never taught; who would notice?")
def zeros_above(model, tasks, learn, test):
    R = torch.tensor(two_loops(model, tasks, learn, test))
    return R.tril()


@matrix.slip("A row ends with its own task: the rows have different lengths. On how many tasks is each row measured?")
def ragged(model, tasks, learn, test):
    return [row[: i + 1] for i, row in enumerate(two_loops(model, tasks, learn, test))]


@matrix.slip("Each task is learnt once for every entry of the matrix. How often should one be learnt?")
def learns_each_entry(model, tasks, learn, test):
    return [[(learn(model, task), test(model, other))[1] for other in tasks] for task in tasks]


@matrix.slip("Only the last row is there. What is it to be compared with?")
def last_row(model, tasks, learn, test):
    return two_loops(model, tasks, learn, test)[-1:]


@matrix.slip(
    "`test` was given a NoneType as its model. `learn` changes the model that it gets and returns nothing: what does your `model` "
    "stand for after that line?"
)
def what_learn_returns(model, tasks, learn, test):
    R = []
    for task in tasks:
        model = learn(model, task)
        R.append([test(model, other) for other in tasks])
    return R


@matrix.slip("Every task starts from a fresh copy, so none is learnt *after* another. Which model is to learn the second task?")
def a_copy_each(model, tasks, learn, test):
    R = []
    for task in tasks:
        pupil = deepcopy(model)
        learn(pupil, task)
        R.append([test(pupil, other) for other in tasks])
    return R


@matrix.slip("The numbers are right, and a copy has learnt them: the model you were given is untouched. Who was to learn?")
def a_copy_learns(model, tasks, learn, test):
    return two_loops(deepcopy(model), tasks, learn, test)


@matrix.slip("The rows stand in the opposite order. Which task was learnt first?")
def upside_down(model, tasks, learn, test):
    return two_loops(model, tasks, learn, test)[::-1]


# ================================================================ backward transfer

transfer = Exercise(
    "backward-transfer",
    lesson=LESSON,
    title="What learning more did to what was learnt",
    signature="backward_transfer(R)",
    why="One number for a whole matrix, and it has a sign: learning more can also help.",
    points=2,
    minutes=7,
    difficulty=2,
    hints=[
        "Take one task. Where in R stands how well it was done just after it was learnt, and where how well at the end?",
        "For one task the two are the same entry, so nothing can have been lost. Does it belong to the mean?",
    ],
)


@transfer.cases
def transfer_cases(seed):
    draw = draws(seed)
    R = (draw(3, 3).abs() % 1).tolist()
    four = (draw(4, 4).abs() % 1).tolist()
    return [
        Case("three tasks", R=R),
        Case("four tasks", R=four),
        Case("two tasks, where learning the second helped the first", R=[[0.5, 0.1], [0.8, 0.9]]),
        Case("three tasks, nothing lost", R=[[0.9, 0.0, 0.1], [0.9, 0.7, 0.2], [0.9, 0.7, 0.6]]),
    ]


@transfer.observe
def look_transfer(answer, case):
    return {"backward transfer": torch.tensor(float(answer([list(row) for row in case.R])))}


@transfer.term("backward transfer")
def transfer_terms(case):
    last = len(case.R) - 1
    ends = sum(case.R[last][:last]) / last
    return {"mean of the end": ends, "mean of the start": -sum(case.R[j][j] for j in range(last)) / last}


@transfer.solution
def in_one_line(R):
    last = len(R) - 1
    return sum(R[last][j] - R[j][j] for j in range(last)) / last


@transfer.solution
def by_tensor(R):
    R = torch.tensor(R, dtype=torch.float64)
    return (R[-1] - R.diagonal())[:-1].mean()


@transfer.solution
def two_means(R):
    n = len(R) - 1
    ends, starts = R[-1][:n], [row[j] for j, row in enumerate(R)][:n]
    return math.fsum(ends) / n - math.fsum(starts) / n


def tensor_slip(message, name, f):
    transfer.slip(message)(lambda R: f(torch.tensor(R, dtype=torch.float64)), name)


tensor_slip(
    "The sign is turned round: a loss comes out positive. What does the word transfer count, gain or loss?",
    "sign-turned",
    lambda R: (R.diagonal() - R[-1])[:-1].mean(),
)
tensor_slip(
    "The mean is over T tasks, the last among them, or you divide by T. How much can the last have lost since it was learnt?",
    "last-task-counts",
    lambda R: (R[-1] - R.diagonal()).mean(),
)
tensor_slip(
    "You compare with the first row. When was task j learnt?",
    "against-the-first-row",
    lambda R: (R[-1] - R[0])[:-1].mean(),
)
tensor_slip(
    "You compare with the best a task ever was. That is another measure, average forgetting, which can't show a gain. What stands on "
    "the diagonal?",
    "against-the-best",
    lambda R: (R[-1] - R.max(0).values)[:-1].mean(),
)
tensor_slip(
    "You compare with the best a task was *before the last one was learnt*. That is average forgetting, with its sign turned. What "
    "stands on the diagonal?",
    "against-the-best-of-earlier-rows",
    lambda R: (R[-1] - R[:-1].max(0).values)[:-1].mean(),
)
tensor_slip(
    "Average forgetting, not backward transfer: the best a task was before the last one was learnt, less what it is at the end. What "
    "stands on the diagonal, and which of the two is subtracted?",
    "average-forgetting",
    lambda R: (R[:-1].max(0).values - R[-1])[:-1].mean(),
)
tensor_slip(
    "The sign is turned round, and the last task counts or you divide by T. Which is subtracted from which, and over how many tasks?",
    "sign-turned-over-t",
    lambda R: (R.diagonal() - R[-1]).mean(),
)
tensor_slip(
    "The mean runs over the other tasks: the first is left out, the last counts. Which task cannot have lost anything yet?",
    "first-left-out",
    lambda R: (R[-1] - R.diagonal())[1:].mean(),
)
tensor_slip(
    "The end is compared with the row just before it. When was task j learnt, and where does that stand?",
    "against-the-row-before",
    lambda R: (R[-1] - R[-2])[:-1].mean(),
)
tensor_slip(
    "A sum, not a mean: with more tasks it grows. Over how many tasks is it taken?",
    "a-sum",
    lambda R: (R[-1] - R.diagonal())[:-1].sum(),
)
tensor_slip(
    "You read the last column where the last row was meant. Which index says what was learnt last?",
    "last-column",
    lambda R: (R[:, -1] - R.diagonal())[:-1].mean(),
)
tensor_slip(
    "Only the step to the next task counts here. What happened to the first task after the third?",
    "next-task-only",
    lambda R: (R.diagonal(-1) - R.diagonal()[:-1]).mean(),
)


# ================================================================ what was lost

lost = Exercise(
    "what-was-lost",
    lesson=LESSON,
    title="Lost, of what was there",
    signature="lost(before, after)",
    why="A model that learns one fact and forgets another has the same accuracy as before. It has forgotten all the same.",
    points=2,
    minutes=6,
    difficulty=1,
    hints=[
        "Which questions can be lost at all? Those are what you divide by.",
        "A question answered now and not before is no loss, and makes no loss good.",
        "A model that knew nothing has nothing to lose: which number says that?",
    ],
)


@lost.cases
def lost_cases(seed):
    draw = draws(seed)
    before, after = (draw(2, 40) > 0).tolist()
    return [
        Case("forty questions", before=before, after=after),
        Case("an untouched model", before=before, after=before),
        Case("one lost, two learnt", before=[True, True, False, False], after=[True, False, True, True]),
        Case("one known, and lost", before=[False, True, False], after=[True, False, True]),
        Case("all lost", before=[True, False, True], after=[False, False, False]),
        Case("a model that knew nothing", before=[False, False], after=[True, False]),
    ]


@lost.observe
def look_lost(answer, case):
    return {"lost": torch.tensor(float(answer(list(case.before), list(case.after))))}


@lost.solution
def of_the_known(before, after):
    known = [now for then, now in zip(before, after) if then]
    return known.count(False) / len(known) if known else 0.0


@lost.solution
def by_counting(before, after):
    gone = sum(b and not a for b, a in zip(before, after))
    return gone / max(1, sum(before))


@lost.solution
def by_masks(before, after):
    before, after = torch.tensor(before), torch.tensor(after)
    return (~after[before]).double().mean().nan_to_num(0.0) if before.any() else 0.0


@lost.slip(
    "You subtract one accuracy from the other, and what was learnt hides what was lost. Which questions can be lost?"
)
def difference_of_accuracies(before, after):
    return (sum(before) - sum(after)) / len(before)


@lost.slip("Divided by all questions. A model that never knew them can't lose them; which are left?")
def of_all(before, after):
    return sum(b and not a for b, a in zip(before, after)) / len(before)


@lost.slip("This is what was kept. An untouched model should give 0; what does yours give?")
def kept(before, after):
    return 1 - of_the_known(before, after) if any(before) else 0.0


@lost.slip("Every change counts, gains too. Has a model forgotten what it answers now and did not before?")
def any_change(before, after):
    return sum(b != a for b, a in zip(before, after)) / max(1, sum(before))


@lost.slip(
    "Whatever is wrong afterwards counts as lost, known before or not. What has a model forgotten that nobody touched?"
)
def wrong_now(before, after):
    return after.count(False) / len(after)


@lost.slip("You count gains against losses among what was known. Can three questions learnt make up for one lost?")
def gains_make_good(before, after):
    return (sum(before) - sum(after)) / max(1, sum(before))


@lost.slip("You count gains against losses among what was known. Can three questions learnt make up for one lost?")
def gains_make_good_where_any_was_known(before, after):
    return 1 - sum(after) / sum(before) if any(before) else 0.0


@lost.slip("Before and after have changed places: you count what was learnt. Of which of the two lists are the known ones?")
def exchanged(before, after):
    return of_the_known(after, before)


@lost.slip("You divide by what is right *afterwards*. Which questions can be lost at all?")
def of_what_is_right_now(before, after):
    return sum(b and not a for b, a in zip(before, after)) / max(1, sum(after))


@lost.slip("You divide by what is wrong afterwards. Which questions can be lost at all?")
def of_what_is_wrong_now(before, after):
    return sum(b and not a for b, a in zip(before, after)) / max(1, after.count(False))


@lost.slip("What was known of the first list is set against all that is wrong in the second. Do the two lists belong together, one by one?")
def counted_apart(before, after):
    return after.count(False) / max(1, sum(before))


@lost.slip("This is a number of questions. Of how many that were known?")
def a_count(before, after):
    return sum(b and not a for b, a in zip(before, after))


# ================================================================ loss on text

text = Exercise(
    "shifted-loss",
    lesson=LESSON,
    title="The loss on plain text",
    signature="next_token_loss(logits, ids, mask)",
    why="A widely read comparison of methods measured forgetting with this, one position off, for months.",
    points=3,
    parts=[
        Part("text without padding is", 2, cases=lambda case: bool(case.mask.all())),
        Part("padded text is", 1, cases=lambda case: not case.mask.all()),
    ],
    minutes=10,
    difficulty=2,
    hints=[
        "The logits at a position are the model's prediction for which token: the one at that position, or the one after it?",
        "The last position has nothing to be compared with, and the first token is never predicted: both tensors lose one position.",
        "A position counts when the token it is to *predict* is no padding. Take the mean over those, all texts together.",
    ],
)


@text.cases
def text_cases(seed):
    draw = draws(seed)
    cases = []
    for lengths, vocabulary in (((6, 6), 9), ((7, 3, 5), 11), ((2, 8), 5)):
        n, t = len(lengths), max(lengths)
        ids = draw(n, t).mul(100).abs().long() % vocabulary
        mask = (torch.arange(t) < torch.tensor(lengths)[:, None]).long()
        label = f"{n} texts of {' and '.join(map(str, lengths))} tokens, padded on the right"
        cases.append(Case(label, logits=2 * draw(n, t, vocabulary), ids=ids, mask=mask))
    return cases


@text.observe
def look_text(answer, case):
    loss = answer(case.logits.clone(), case.ids.clone(), case.mask.clone())
    if isinstance(loss, torch.Tensor) and loss.numel() != 1:
        raise Unexpected(f"`next_token_loss` gave a tensor of shape {tuple(loss.shape)}; expected one number, the mean.")
    return {"loss": torch.tensor(float(loss))}


@text.solution
def with_ignored_labels(logits, ids, mask):
    labels = ids.masked_fill(mask == 0, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten())


@text.solution
def by_gathering(logits, ids, mask):
    guesses = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    counted = mask[:, 1:].bool()
    return -guesses[counted].mean()


@text.solution
def place_by_place(logits, ids, mask):
    total, places = 0.0, 0
    for row, tokens, real in zip(logits, ids, mask):
        n = int(real.sum())
        total = total + F.cross_entropy(row[: n - 1], tokens[1:n], reduction="sum")
        places += n - 1
    return total / places


def labelled(ids, mask):
    return ids.masked_fill(mask == 0, -100)


@text.slip("Each position is compared with the token it has already read. Which token does it predict?")
def not_shifted(logits, ids, mask):
    return F.cross_entropy(logits.flatten(0, 1), labelled(ids, mask).flatten())


@text.slip(
    "Shifted the wrong way: each position is compared with the token before it. Which of the two tensors loses its first position?"
)
def shifted_back(logits, ids, mask):
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), labelled(ids, mask)[:, :-1].flatten())


@text.slip("Padding counts as text. Which positions have a token that was in the text?")
def padding_counts(logits, ids, mask):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@text.slip("A mean of each text's mean: a short text weighs as much as a long one. Over what should the mean be taken?")
def mean_of_means(logits, ids, mask):
    return torch.stack([place_by_place(*(t[None] for t in row)) for row in zip(logits, ids, mask)]).mean()


@text.slip("This is the sum over all positions. Over how many is it?")
def the_sum(logits, ids, mask):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labelled(ids, mask)[:, 1:].flatten(), reduction="sum")


@text.slip(
    "A position counts when it *is* text, not when what it predicts is. What does the last token of a short text have to predict?"
)
def mask_of_the_reader(logits, ids, mask):
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    counted = mask[:, :-1].flatten()
    return (losses * counted).sum() / counted.sum()


@text.slip("Padding is left out of the sum. Is it in what you divide by?")
def divided_by_all(logits, ids, mask):
    return the_sum(logits, ids, mask) / ids[:, 1:].numel()


def each_loss(logits, ids):
    """(n, t - 1): the loss of each prediction, padding included."""
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")


@text.slip("Shifted the wrong way: each position is compared with the token before it. Which of the two tensors loses its first position?")
def shifted_back_masked_ahead(logits, ids, mask):
    losses = F.cross_entropy(logits[:, 1:].transpose(1, 2), ids[:, :-1], reduction="none")
    return (losses * mask[:, 1:]).sum() / mask[:, 1:].sum()


@text.slip("You divide by all tokens of the texts. Each text's first token is never predicted: by how many too many is that?")
def divided_by_the_whole_mask(logits, ids, mask):
    return (each_loss(logits, ids) * mask[:, 1:]).sum() / mask.sum()


@text.slip("A mask of integers picks rows number 0 and 1; it does not leave anything out. Which type of mask selects?")
def integers_as_an_index(logits, ids, mask):
    return each_loss(logits, ids)[mask[:, 1:]].mean()


@text.slip("The softmax runs over the positions and not over the vocabulary. Which dimension holds the alternatives?")
def softmax_over_positions(logits, ids, mask):
    guesses = logits[:, :-1].log_softmax(1).gather(-1, ids[:, 1:, None])[..., 0]
    return -guesses[mask[:, 1:].bool()].mean()


@text.slip("The sign is missing: these are logarithms of probabilities, which are below zero. What is a loss?")
def sign_lost(logits, ids, mask):
    return -with_ignored_labels(logits, ids, mask)


@text.slip("These are logits as they come. What makes logarithms of probabilities of them?")
def no_softmax(logits, ids, mask):
    return -logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0][mask[:, 1:].bool()].mean()


@text.slip("This is the perplexity, the exponential of the loss. Which of the two was asked for?")
def perplexity(logits, ids, mask):
    return with_ignored_labels(logits, ids, mask).exp()


@text.slip("This is measured in bits, the logarithm to base two. What does cross_entropy give?")
def in_bits(logits, ids, mask):
    return with_ignored_labels(logits, ids, mask) / math.log(2)


# ================================================================ retrieval

finding = Exercise(
    "retrieval-kept",
    lesson=LESSON,
    title="Does it still find its neighbours?",
    signature="retrieval(vectors, documents)",
    why="What a model can do untaught is the first thing fine-tuning may take, and no accuracy on the new task will show it.",
    points=2,
    minutes=8,
    difficulty=1,
    hints=[
        "Normalise every vector, and all cosine similarities are one product of matrices.",
        "The nearest to a sentence is always itself. What on the diagonal is never chosen, even if all cosines are below zero?",
    ],
)


@finding.cases
def finding_cases(seed):
    draw, cases = draws(seed), []
    for n, d, groups in ((14, 4, 4), (20, 6, 5), (31, 5, 6), (45, 8, 7), (9, 3, 3)):
        centres = draw(groups, d)
        documents = [f"article {i % groups}" for i in range(n)]
        vectors = torch.stack([centres[i % groups] + 0.7 * draw(d) for i in range(n)]) * draw(n, 1).exp()
        cases.append(
            Case(f"{n} sentences from {groups} articles, {d} dimensions", vectors=vectors, documents=documents)
        )
    angle = torch.tensor([0.0, 110.0, 240.0]).deg2rad() + draw(1)
    apart = torch.stack([angle.cos(), angle.sin()], 1) * draw(3, 1).exp()
    return [*cases, Case("three sentences with no cosine above zero", vectors=apart, documents=["a", "b", "a"])]


@finding.observe
def look_finding(answer, case):
    share = answer(case.vectors.clone(), list(case.documents))
    return {"share": torch.tensor(float(share))}


def hits(similar, documents):
    nearest = similar.fill_diagonal_(-torch.inf).argmax(1).tolist()
    return sum(documents[i] == documents[j] for i, j in enumerate(nearest)) / len(documents)


@finding.solution
def by_one_product(vectors, documents):
    unit = F.normalize(vectors, dim=-1)
    return hits(unit @ unit.T, documents)


@finding.solution
def one_at_a_time(vectors, documents):
    found = 0
    for i, v in enumerate(vectors):
        others = [j for j in range(len(vectors)) if j != i]
        best = max(others, key=lambda j: float(F.cosine_similarity(v, vectors[j], dim=0)))
        found += documents[best] == documents[i]
    return found / len(vectors)


@finding.solution
def by_distance_of_units(vectors, documents):
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    return hits(-torch.cdist(unit, unit), documents)


@finding.slip("Every sentence finds itself. How do you keep it out?")
def finds_itself(vectors, documents):
    unit = F.normalize(vectors, dim=-1)
    nearest = (unit @ unit.T).argmax(1).tolist()
    return sum(documents[i] == documents[j] for i, j in enumerate(nearest)) / len(documents)


@finding.slip("Zero stands on the diagonal. Where all other cosines are below zero, what is the largest of a row?")
def zero_on_the_diagonal(vectors, documents):
    unit = F.normalize(vectors, dim=-1)
    nearest = (unit @ unit.T).fill_diagonal_(0).argmax(1).tolist()
    return sum(documents[i] == documents[j] for i, j in enumerate(nearest)) / len(documents)


@finding.slip("This is a number of sentences. Of how many?")
def number_of_hits(vectors, documents):
    return by_one_product(vectors, documents) * len(documents)


@finding.slip("Long vectors win whatever they mean. What does the cosine divide by?")
def plain_products(vectors, documents):
    return hits(vectors @ vectors.T, documents)


@finding.slip(
    "The vectors are compared by distance with their norms left in. How far apart may two vectors of one direction lie?"
)
def plain_distance(vectors, documents):
    return hits(-torch.cdist(vectors, vectors), documents)


@finding.slip("This finds the farthest. Is a large cosine near or far?")
def farthest(vectors, documents):
    unit = F.normalize(vectors, dim=-1)
    return hits(-unit @ unit.T, documents)


@finding.slip("Each sentence may look only at those after it. Can its nearest stand before it?")
def looks_ahead(vectors, documents):
    unit = F.normalize(vectors, dim=-1)
    similar = (unit @ unit.T).masked_fill(torch.ones(len(unit), len(unit)).tril().bool(), -torch.inf)
    return hits(similar, documents)


@finding.slip(
    "Features were normalised over the sentences, not the vectors of each. Which dimension is one sentence's?"
)
def wrong_dimension(vectors, documents):
    unit = F.normalize(vectors, dim=0)
    return hits(unit @ unit.T, documents)


@finding.slip("This is the share of misses. What does a perfect model get?")
def misses(vectors, documents):
    return 1 - by_one_product(vectors, documents)


# ================================================================ task unknown

routing = Exercise(
    "task-unknown",
    lesson=LESSON,
    title="Nobody says which adapter",
    signature="choose_adapter(logits)",
    why="Zero forgetting needs somebody who says which task it is. Here nobody does, and a router has to guess.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "Each adapter gave one row of logits for each letter. How unsure was it of that letter? Softmax first.",
        "The entropy of a distribution p is the sum of -p log p: zero for a sure guess, large for an even spread.",
        "Take the mean over the letters, since adapters write answers of different lengths.",
    ],
)


@routing.cases
def routing_cases(seed):
    draw, cases = draws(seed), []
    for k in range(48):
        logits = {
            name: draw(2 + (k + i) % 5, 6) * (0.6 + 2 * draw(1).abs()) for i, name in enumerate(("it", "tr", "de"))
        }
        cases.append(Case(f"three adapters, question {k + 1}", logits=logits))
    return cases


@routing.observe
def look_routing(answer, case):
    return {"chosen": given(answer({n: t.clone() for n, t in case.logits.items()}), str, "`choose_adapter`")}


def entropies(t):
    p = t.softmax(-1)
    return -(p * p.log()).sum(-1)


@routing.solution
def least_unsure(logits):
    return min(logits, key=lambda name: entropies(logits[name]).mean())


@routing.solution
def by_distribution(logits):
    unsure = {name: torch.distributions.Categorical(logits=t).entropy().mean() for name, t in logits.items()}
    return min(unsure, key=unsure.get)


@routing.solution
def by_loop(logits):
    best, found = math.inf, None
    for name, t in logits.items():
        logp = F.log_softmax(t, dim=-1)
        value = -sum(float((row.exp() * row).sum()) for row in logp) / len(logp)
        if value < best:
            best, found = value, name
    return found


def chooses(message, name, key, pick=min):
    routing.slip(message)(lambda logits: pick(logits, key=lambda n: float(key(logits[n]))), name)


chooses(
    "You choose the adapter that is least sure. What is the entropy, with its sign, of a sure guess, and of an unsure one?",
    "least-sure",
    lambda t: entropies(t).mean(),
    max,
)
chooses(
    "Entropies are added up: a long answer looks unsure because it is long. How many letters had each?",
    "summed",
    lambda t: entropies(t).sum(),
)
chooses(
    "Only the first letter is asked. Many languages begin alike; which letters tell them apart?",
    "first-letter",
    lambda t: entropies(t)[0],
)
chooses("Only the last letter is asked. What of those before it?", "last-letter", lambda t: entropies(t)[-1])
chooses(
    "You compare raw logits. One number added to all of them changes nothing in the guess; what does softmax do first?",
    "raw-logits",
    lambda t: t.max(-1).values.mean(),
    max,
)
chooses(
    "The softmax runs over the letters of the answer and not over the vocabulary. Which dimension holds the alternatives?",
    "wrong-dimension",
    lambda t: -(t.softmax(0) * t.softmax(0).log()).sum(0).mean(),
)


chooses(
    "The softmax runs over the letters of the answer and not over the vocabulary. Which dimension holds the alternatives?",
    "wrong-softmax",
    lambda t: -(t.softmax(0) * t.softmax(0).log()).sum(-1).mean(),
)
chooses(
    "Only the least sure letter is asked. What of the others?",
    "least-sure-letter",
    lambda t: entropies(t).max(),
)


chooses(
    "You compare how probable the likeliest letter is. The entropy asks besides how the rest is spread: where is that?",
    "likeliest-letter",
    lambda t: t.softmax(-1).max(-1).values.mean(),
    max,
)


@routing.slip("The first adapter is taken every time. What do the logits say?")
def always_the_first(logits):
    return next(iter(logits))


# ================================================================ intruders

newcomers = Exercise(
    "intruder-directions",
    lesson=LESSON,
    title="Intruder dimensions",
    signature="intruders(before, after, top, below)",
    why="LoRA and full fine-tuning can answer alike and have changed a weight in unlike ways. This is where one sees it.",
    points=1,
    minutes=8,
    difficulty=2,
    hints=[
        "`torch.linalg.svd(W, full_matrices=False)` gives U, S, Vh; the columns of U are the left singular vectors, the strongest first.",
        "All columns of U have norm one, so a product of two of them is their cosine. Which sign it has is chance.",
        "A singular vector is new only if none of the old ones, strong or weak, is like it: the largest cosine decides.",
    ],
)
TOP, BELOW = 6, 0.6


def changed_weight(draw, d_out, d_in):
    """A weight before and after: a weak direction made strong, some turned about, new left singular vectors and a new right one."""
    k = min(d_out, d_in)
    U, V = (torch.linalg.qr(draw(d, k).double())[0] for d in (d_out, d_in))
    S = torch.linspace(6, 1, k).double() * (1 + 0.02 * draw(k).double())
    new = S.clone()
    new[0], new[k - 2] = 13.0, 10.5
    new[[1, 3]] *= -1.3
    spread = U @ draw(k, 2).double().sign() / k**0.5  # as far from each old direction as from any other
    after = U * new @ V.T + 9.0 * torch.outer(spread[:, 0], V[:, 2]) + 7.6 * torch.outer(spread[:, 1], V[:, 5])
    return U * S @ V.T, after + 8.2 * torch.outer(U[:, 4], draw(d_in).double() / d_in**0.5)


@newcomers.cases
def changed_cases(seed):
    draw, cases = draws(seed), []
    for label, d_out, d_in in (("a tall weight", 40, 28), ("a wide weight", 30, 44), ("a square weight", 36, 36)):
        while True:  # nothing may hang on the last digit
            before, after = changed_weight(draw, d_out, d_in)
            old, (new, strength, _) = by_columns(before), torch.linalg.svd(after, full_matrices=False)
            alike = (old.T @ new[:, :TOP]).abs().amax(0)
            gaps = (strength[:TOP] - strength[1 : TOP + 1]) / strength[0]
            if (alike - BELOW).abs().min() > 0.04 and gaps.min() > 0.004 and 0 < (alike < BELOW).sum() < TOP:
                break
        cases.append(Case(label, before=before.float(), after=after.float()))
    return [*cases, Case("a weight that only grew", before=before.float(), after=1.25 * before.float())]


def by_columns(W):
    return torch.linalg.svd(W, full_matrices=False)[0]


@newcomers.observe
def look_newcomers(answer, case):
    found = answer(case.before.clone(), case.after.clone(), TOP, BELOW)
    given(found, (list, tuple, torch.Tensor), "`intruders`")
    if any(isinstance(i, bool) or getattr(i, "dtype", None) == torch.bool for i in found):
        raise Unexpected("`intruders` says True or False for each direction; expected the positions of those that are new, as integers.")
    return {"which of the strongest are new": sorted(int(i) for i in found)}


@newcomers.solution
def by_one_table(before, after, top, below):
    alike = (by_columns(before).T @ by_columns(after)[:, :top]).abs().amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.solution
def by_loops(before, after, top, below):
    old, new, found = by_columns(before).T, by_columns(after).T, []
    for i, direction in enumerate(new[:top]):
        if all(abs(float(direction @ other)) < below for other in old):
            found.append(i)
    return found


@newcomers.solution
def by_eigenvectors(before, after, top, below):
    rank = min(before.shape)
    old, new = (torch.linalg.eigh((W @ W.T).double())[1].flip(1)[:, :rank] for W in (before, after))
    nearest = F.cosine_similarity(old[:, :, None], new[:, None, :top], dim=0).abs().max(0).values
    return torch.nonzero(nearest < below).flatten()


def table(before, after, top):
    return (by_columns(before).T @ by_columns(after)[:, :top]).abs()


@newcomers.slip("A cosine of -1 counts as unlike. Which way a singular vector points is chance: what of its opposite?")
def signed(before, after, top, below):
    alike = (by_columns(before).T @ by_columns(after)[:, :top]).amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("Each is compared with the old one of the same place. If an old direction has only moved up, is it new?")
def same_place(before, after, top, below):
    alike = table(before, after, top).diagonal()
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("Only the strongest of the old ones are asked. What of a weak direction that has become strong?")
def strongest_only(before, after, top, below):
    alike = table(before, after, top)[:top].amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("These are right singular vectors, directions of the input. Which part of the decomposition holds those of the output?")
def what_enters(before, after, top, below):
    old, new = (torch.linalg.svd(W, full_matrices=False)[2] for W in (before, after))
    alike = (old @ new[:top].T).abs().amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("You look at the directions of the update. They are all it has; which of them lead in the weight as it is now?")
def of_the_update(before, after, top, below):
    alike = table(before, after - before, top).amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("These are the ones that were there before. Which side of `below` is new?")
def the_old_ones(before, after, top, below):
    alike = table(before, after, top).amax(0)
    return [i for i in range(top) if alike[i] >= below]


@newcomers.slip("One old direction unlike it is enough here to call it new. Of the orthogonal old ones, how many can it be like at all?")
def unlike_one(before, after, top, below):
    alike = table(before, after, top).amin(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("You take rows of U. Which way do its vectors stand?")
def rows_of_u(before, after, top, below):
    old, new = by_columns(before), by_columns(after)[:top]
    alike = (old @ new.T).abs().amax(0)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("The largest cosine was taken for each *old* direction. Whose nearest neighbour is asked for: which dimension is reduced?")
def over_the_new(before, after, top, below):
    alike = table(before, after, top).amax(1)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("The largest cosine was taken for each *old* direction. Whose nearest neighbour is asked for: which dimension is reduced?")
def over_all_the_new(before, after, top, below):
    alike = table(before, after, min(after.shape)).amax(1)
    return [i for i in range(top) if alike[i] < below]


@newcomers.slip("All directions are looked at. How many of the strongest were asked for?")
def all_of_them(before, after, top, below):
    alike = table(before, after, min(after.shape)).amax(0)
    return [i for i in range(len(alike)) if alike[i] < below]
