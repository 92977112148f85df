"""Lesson 00, start here: one small exercise, so that the first tick comes within five minutes."""

import torch
import torch.nn.functional as F

from ..exercise import Case, Exercise, Question
from ..observing import changed, fresh, given

cosine = Exercise(
    "cosine",
    lesson="00-start-here",
    title="How alike are two sentences?",
    signature="cosine(a, b)",
    dims={"a": "n d", "b": "m d"},
    why="This one number is how an encoder finds the sentence you meant.",
    points=1,
    minutes=4,
    difficulty=1,
    hints=[
        "The cosine of two vectors is their dot product once each has been normalised: divided by its own norm.",
        "All pairs at once: `a` is (n, d) and `b` is (m, d); which product of the two has shape (n, m)?",
        "`tensor.norm(dim=..., keepdim=True)` gives one norm a row and keeps the shape divisible.",
    ],
)


@cosine.cases
def cosine_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for n, m, d in ((3, 5, 4), (4, 4, 4), (1, 6, 8)):
        length = torch.rand(n, 1, generator=draw) * 9 + 0.5  # rows of very different length
        tensors = {"a": torch.randn(n, d, generator=draw) * length, "b": torch.randn(m, d, generator=draw) * 3}
        cases.append(Case(f"`a` of shape {(n, d)}, `b` of shape {(m, d)}", tensors=tensors))
    return cases


@cosine.observe
def look_cosine(answer, case):
    before, inputs = fresh(case.tensors), fresh(case.tensors)
    similarity = given(answer(**inputs), torch.Tensor, "`cosine`")
    return {"similarities": similarity.detach(), "changed in place": changed(before, inputs)}


@cosine.solution
def normalise_then_multiply(a, b):
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T


@cosine.solution
def divide_by_lengths(a, b):
    return a @ b.T / (a.norm(dim=1, keepdim=True) * b.norm(dim=1))


@cosine.solution
def by_broadcasting(a, b):
    return F.cosine_similarity(a[:, None], b[None], dim=-1)


@cosine.solution
def pair_by_pair(a, b):
    return torch.stack([torch.stack([x @ y / (x.norm() * y.norm()) for y in b]) for x in a])


@cosine.slip("These are dot products: a vector of larger norm counts as more alike. What has to be divided out?")
def dot_product(a, b):
    return a @ b.T


@cosine.slip("Only the rows of `a` have been normalised. Doubling a row of `b` should change nothing; does it?")
def b_keeps_its_length(a, b):
    return F.normalize(a, dim=-1) @ b.T


@cosine.slip("Only the rows of `b` have been normalised. Doubling a row of `a` should change nothing; does it?")
def a_keeps_its_length(a, b):
    return a @ F.normalize(b, dim=-1).T


@cosine.slip("You divide by one norm for the whole matrix. Should each row have a norm of its own?")
def one_length_for_all(a, b):
    return a / a.norm() @ (b / b.norm()).T


@cosine.slip(
    "The columns were normalised, not the rows. Along which dimension does one sentence's vector lie?"
)
def along_the_wrong_dimension(a, b):
    return F.normalize(a, dim=0) @ F.normalize(b, dim=0).T


@cosine.slip("The norms are squared. Is the sum of the squares already the norm?")
def squared_lengths(a, b):
    return a @ b.T / ((a * a).sum(1, keepdim=True) * (b * b).sum(1))


@cosine.slip("The table is turned: its rows belong to `b`. Which comes first, n or m?")
def turned(a, b):
    return F.normalize(b, dim=-1) @ F.normalize(a, dim=-1).T


@cosine.slip("This is the distance: it is 0 for equal vectors, and grows. What is the cosine of equal vectors?")
def distance(a, b):
    return torch.cdist(a, b)


@cosine.slip("Each row of `a` met only the row of `b` with the same number. How many pairs are there in all?")
def same_rows_only(a, b):
    return F.cosine_similarity(a, b, dim=-1)


@cosine.slip("No similarity is negative. What is the cosine of two vectors that point in opposite directions?")
def without_sign(a, b):
    return (F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T).abs()


@cosine.slip(
    "The values are right, but your function divided the caller's own vectors in place. Who else may need them?"
)
def in_place(a, b):
    a /= a.norm(dim=1, keepdim=True)
    b /= b.norm(dim=1, keepdim=True)
    return a @ b.T


nearest = Question(
    "nearest-sentence",
    lesson="00-start-here",
    title="What an encoder goes by",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "MiniLM turns a sentence into a vector, its embedding. Which of these sentences lands nearest to "
        "*The bank has raised its interest rates*?"
    ),
    options={
        "a": (
            "The river bank was covered in flowers.",
            "It has the word *bank*, and another bank. Does the model see the word alone, or the sentence around it?",
        ),
        "b": (
            "Borrowing money has become more expensive.",
            "Not one word in common but *has*, and the same thing said. The next cells measure it.",
        ),
        "c": (
            "She raised an interesting question.",
            "*Raised* and *interest* are there, nearly. How much of the meaning is?",
        ),
        "d": (
            "The bank has a green roof.",
            "Close: it is the right bank. Is what is said *about* the bank the same?",
        ),
    },
    right="b",
)
