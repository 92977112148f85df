"""Lesson 11, four bits: NF4 (QLoRA, arXiv:2305.14314) from its maxima to its bytes, and what a merge makes of it.

Everywhere: W of any shape is read row by row; a block is `block` weights in that order, and the last may be shorter. `levels`
(16,) ascend from -1 to 1; a code is the number of a level; `absmax` (blocks,) are the largest |w| of the blocks.
"""

import math

import torch
import torch.nn.functional as F

from peftlab import nf4

from ..exercise import Case, Exercise, Near, Question, Unexpected
from ..observing import changed, given, pair

LESSON = "11-four-bits"
EDGE = (1 - 1 / 32 + 1 - 1 / 30) / 2
NF4 = torch.tensor([
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
])  # fmt: skip
FEW = torch.tensor([-1.0, -0.45, -0.1, 0.0, 0.3, 0.6, 1.0])  # not symmetric, and not evenly spaced


def blocks(values, block):
    """(blocks, block), the last filled up with zeros."""
    return F.pad(values.flatten(), (0, -values.numel() % block)).view(-1, block)


def nearest(scaled, levels):
    return torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)


def scales(values, block):
    return blocks(values, block).abs().amax(1)


def clear(values, levels, block, margin):
    """Is no value, divided by its block's maximum, close to the middle between two levels, where rounding would decide?"""
    scaled = blocks(values, block) / scales(values, block).clamp(min=1e-30)[:, None]
    middles = (levels[1:] + levels[:-1]) / 2
    return bool((scaled.flatten()[:, None] - middles).abs().min() > margin)


def drawn(draw, shape, levels, block, zeros=None, margin=1e-4):
    """Normal weights none of which lies in the middle between two levels; the block `zeros` holds zeros only."""
    while True:
        W = torch.randn(*shape, generator=draw) * torch.rand((), generator=draw) * 3
        if zeros is not None:
            W.view(-1)[zeros * block : (zeros + 1) * block] = 0
        if clear(W, levels, block, margin):
            return W


# ================================================================ predict

where_to_merge = Question(
    "four-bit-merge",
    lesson=LESSON,
    title="Into what do you merge?",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="A base was quantised to four bits, an adapter was trained on it, and the task is learnt. Now you want one model without "
    "an adapter beside it. You still have the original weights, which are more exact than what the four bits stand for. Where do you "
    "merge the adapter?",
    options={
        "a": (
            "into the original weights: more exact can only be better",
            "More exact as a copy of the *base*. Beside which weights has the adapter learnt what it does?",
        ),
        "b": (
            "into the weights that the four bits stand for, written out in full",
            "These are the ones it was trained beside, so nothing changes but rounding. The price: the merged model has no four bits any more.",
        ),
        "c": (
            "into what the four bits stand for, and quantise the sum to four bits again: small and merged",
            "Each weight goes to the nearest of sixteen levels once more. What happens to an update that is smaller than half the gap between two?",
        ),
        "d": (
            "it makes no difference: the base lost next to nothing by being quantised",
            "The error is small beside the weights. How large is it beside the *update*, which is small beside the weights too?",
        ),
    },
    right="b",
)

equally_often = Question(
    "codes-equally-often",
    lesson=LESSON,
    title="How often is each code used?",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="The sixteen levels of NF4 are quantiles of the normal distribution, and trained weights look normal. Between neighbouring "
    "quantiles lies the same share of a distribution. In blocks of 64, how often is each of the sixteen codes used?",
    options={
        "a": (
            "each about equally often: that is what quantiles are for",
            (
                "It would be so if what is rounded were normal, out to the outermost quantile. What is rounded is w divided by the "
                "largest of its block. How far out does the largest of 64 lie?"
            ),
        ),
        "b": (
            "those near zero more often than the outer ones",
            "The largest of 64 lies further out than the outermost quantile of sixteen. Dividing by it draws all the others in towards zero.",
        ),
        "c": (
            "the two outermost most often, for every block has a weight at its maximum",
            "Every block has one, yes: one in how many?",
        ),
        "d": (
            "those near zero hardly ever, for the levels lie closest there",
            "They lie close there because so many weights do. Which of the two wins?",
        ),
    },
    right="b",
)


# ================================================================ absolute maximum by block

absmax = Exercise(
    "nf4-absmax",
    lesson=LESSON,
    title="The largest of each block",
    signature="block_absmax(W, block)",
    why="One outlier sets the scale of all that share it: so let few share one.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "Row by row, `W.flatten()`. How many blocks are there, if the last may be shorter?",
        "Zeros put behind the last weight change no maximum of absolute values; then all blocks have one length, and are the rows of a matrix.",
        "A weight of -3 needs as much room as one of 3.",
    ],
)


@absmax.cases
def absmax_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for shape, block in (((4, 8), 8), ((5, 7), 8), ((5, 5), 6), ((2, 3, 5), 4), ((10,), 16), ((12, 3), 6)):
        W = torch.randn(*shape, generator=draw)
        W.view(-1)[-(W.numel() % block or block) :].abs_().neg_()  # the last block: nothing above zero
        last = W.numel() % block
        label = f"`W` of shape {shape}, `block = {block}`" + (f": the last block has {last} weight{'s' * (last > 1)}" if last else "")
        cases.append(Case(label, W=W, block=block))
    W = torch.randn(6, 6, generator=draw)
    W.view(-1)[9:18] = 0
    return [*cases, Case("`W` of shape (6, 6), `block = 9`, the second block all zeros", W=W, block=9)]


@absmax.observe
def look_absmax(answer, case):
    W = case.W.clone()
    seen = given(answer(W, case.block), torch.Tensor, "`block_absmax`")
    return {"maxima": seen.detach().clone(), "changed in place": changed({"W": case.W}, {"W": W})}


@absmax.solution
def filled_up(W, block):
    flat = F.pad(W.flatten(), (0, -W.numel() % block))
    return flat.view(-1, block).abs().amax(1)


@absmax.solution
def split_up(W, block):
    return torch.stack([part.abs().max() for part in W.flatten().split(block)])


@absmax.solution
def one_by_one(W, block):
    sizes = W.abs().flatten().tolist()
    return torch.tensor([max(sizes[i : i + block]) for i in range(0, len(sizes), block)])


@absmax.solution
def by_scattering(W, block):
    flat = W.abs().reshape(-1)
    number = torch.arange(len(flat)) // block
    return torch.zeros(int(number[-1]) + 1).scatter_reduce(0, number, flat, "amax")


@absmax.slip("This is the largest weight of each block, with its sign: a block whose largest weight is negative gets too small a scale. What is to fit into [-1, 1]?")  # fmt: skip
def without_absolute_value(W, block):
    return torch.stack([part.max() for part in W.flatten().split(block)])


@absmax.slip("You look for the largest first and take its absolute value then. Which weight is left out of account, if it lies far below zero?")
def absolute_value_too_late(W, block):
    return torch.stack([part.max().abs() for part in W.flatten().split(block)])


@absmax.slip("There is one number for the whole of `W`. How many weights share a scale, if one of them is an outlier?")
def one_for_all(W, block):
    return W.abs().max().reshape(1)


@absmax.slip("There is one number for each row of `W`, however long the rows are. What is `block` for?")
def one_for_each_row(W, block):
    return W.abs().reshape(W.shape[0], -1).amax(1)


@absmax.slip("Your blocks run down the columns. In which order does `flatten` read a matrix?")
def down_the_columns(W, block):
    return filled_up(W.transpose(0, -1), block)


@absmax.slip("The last weights have no maximum: those that fill no whole block are left out. Who will scale them?")
def last_block_dropped(W, block):
    whole = W.numel() // block
    return W.flatten()[: whole * block].view(whole, block).abs().amax(1)


@absmax.slip("These are means of the absolute values. Where does the largest weight of a block end up, divided by the mean?")
def mean_of_absolute_values(W, block):
    return torch.stack([part.abs().mean() for part in W.flatten().split(block)])


@absmax.slip("This is half of the way from the smallest to the largest. Where is the middle of that way, and where is the middle of the levels?")
def half_the_range(W, block):
    return torch.stack([(part.max() - part.min()) / 2 for part in W.flatten().split(block)])


@absmax.slip("A block of yours holds every so-manieth weight, not neighbours: it is the columns that you take the maximum of. Which weights stand beside each other in memory?")  # fmt: skip
def every_nth(W, block):
    flat = F.pad(W.flatten(), (0, -W.numel() % block))
    return flat.view(block, -1).abs().amax(0)


@absmax.slip("These are the norms of the blocks. Does the largest weight come out at 1, divided by the norm?")
def norms_of_blocks(W, block):
    return torch.stack([part.norm() for part in W.flatten().split(block)])


@absmax.slip("These are the smallest absolute values. What becomes of the others, divided by the smallest?")
def smallest(W, block):
    return torch.stack([part.abs().min() for part in W.flatten().split(block)])


@absmax.slip("There is a row for every weight now, or a dimension too many: the maxima are to stand in one row, one for each block. Which argument keeps a dimension?")  # fmt: skip
def as_a_column(W, block):
    return filled_up(W, block)[:, None]


@absmax.switched(
    how=("without-absolute-value", "absolute-value-too-late", "mean-of-absolute-values", "norms-of-blocks", "smallest", "half-the-range"),
    order=("down-the-columns",),
)
def absmax_with_switches(W, block, how="", order=""):
    parts = (W.transpose(0, -1) if order else W).flatten().split(block)
    take = {
        "": lambda p: p.abs().max(),
        "without-absolute-value": lambda p: p.max(),
        "absolute-value-too-late": lambda p: p.max().abs(),
        "mean-of-absolute-values": lambda p: p.abs().mean(),
        "norms-of-blocks": lambda p: p.norm(),
        "smallest": lambda p: p.abs().min(),
        "half-the-range": lambda p: (p.max() - p.min()) / 2,
    }[how]
    return torch.stack([take(p) for p in parts])


# ================================================================ the levels

levels_ = Exercise(
    "nf4-levels",
    lesson=LESSON,
    title="Levels where the weights are",
    signature="normal_levels(edge, below, above)",
    why="Sixteen numbers are all a weight may become: put them where weights are.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "`torch.special.ndtri(p)` is the quantile: below it lies the share `p` of the normal distribution. For `p = 1/2` it is zero.",
        "For the upper half you need `above` probabilities, evenly spaced from `edge` towards 1/2. `torch.linspace` gives both ends; you want one of them.",
        "The lower half is made the same way with its own number of levels, and the sign turned. Zero you put in yourself.",
        "Sort, and divide by the largest, so that it is 1.",
    ],
)


@levels_.cases
def levels_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = [(EDGE, 7, 8, ": those of NF4"), (0.9, 3, 4, ""), (0.99, 1, 2, ""), (0.95, 6, 3, ""), (0.8, 15, 16, "")]
    more = [(0.85 + 0.14 * torch.rand((), generator=draw).item(), 4, 5, "")]
    return [Case(f"`edge = {e:.4g}`, `below = {b}`, `above = {a}`{end}", edge=e, below=b, above=a) for e, b, a, end in cases + more]


@levels_.observe
def look_levels(answer, case):
    seen = answer(case.edge, case.below, case.above)
    if isinstance(seen, (list, tuple)):
        seen = torch.tensor([float(v) for v in seen])
    seen = given(seen, torch.Tensor, "`normal_levels`").detach().double().float()
    return {"how many levels": seen.numel(), "the largest level": float(seen.max()) if seen.numel() else 0.0, "levels": seen}


@levels_.solution
def two_halves(edge, below, above):
    up = torch.special.ndtri(torch.linspace(edge, 0.5, above + 1)[:-1])
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, below + 1)[:-1])
    levels = torch.cat([down, torch.zeros(1), up]).sort().values
    return levels / levels.max()


@levels_.solution
def one_at_a_time(edge, below, above):
    from statistics import NormalDist

    quantile = NormalDist().inv_cdf
    up = [quantile(0.5 + (edge - 0.5) * i / above) for i in range(1, above + 1)]
    down = [-quantile(0.5 + (edge - 0.5) * i / below) for i in range(below, 0, -1)]
    return torch.tensor([v / up[-1] for v in [*down, 0.0, *up]])


@levels_.solution
def from_low_to_high(edge, below, above):
    low = torch.linspace(1 - edge, 0.5, below + 1, dtype=torch.float64)
    high = torch.linspace(0.5, edge, above + 1, dtype=torch.float64)[1:]
    return torch.special.ndtri(torch.cat([low, high])) / torch.special.ndtri(high[-1])


@levels_.solution
def by_the_error_function(edge, below, above):
    share = torch.cat([torch.arange(-below, 0) / below, torch.arange(above + 1) / above])
    levels = torch.erfinv((2 * edge - 1) * share)
    return levels / levels[-1]


@levels_.slip("The outermost level is a quantile and not 1. What is the largest of a block, divided by its own absolute value?")
def not_normalised(edge, below, above):
    up = torch.special.ndtri(torch.linspace(edge, 0.5, above + 1)[:-1])
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, below + 1)[:-1])
    return torch.cat([down, torch.zeros(1), up]).sort().values


@levels_.slip("Zero is not among your levels. What becomes of a weight that is zero, or was padded with zeros?")
def without_zero(edge, below, above):
    levels = two_halves(edge, below, above)
    return levels[levels != 0]


@levels_.slip("The levels are not divided by the largest, and zero is not among them. Which range do the scaled weights fill, and what becomes of a zero?")
def not_normalised_without_zero(edge, below, above):
    levels = not_normalised(edge, below, above)
    return levels[levels != 0]


@levels_.slip("Zero is there more than once: each half brings its own, at probability 1/2. How many different levels are left?")
def zero_again(edge, below, above):
    levels = two_halves(edge, below, above)
    return torch.cat([levels, torch.zeros(1)]).sort().values


@levels_.slip("Zero is there three times: each half ends in probability 1/2, and one is put in besides. How many different levels are left?")
def zero_three_times(edge, below, above):
    return torch.cat([two_halves(edge, below, above), torch.zeros(2)]).sort().values


@levels_.slip("Each side counts zero among its own, and one is put in besides: there are as many as there should be, and three of them are zero. Which end of `linspace` is to be dropped?")
def zero_among_each_side(edge, below, above):
    up = torch.special.ndtri(torch.linspace(edge, 0.5, above))
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, below))
    return torch.cat([down, torch.zeros(1), up]).sort().values / (up.max() if above > 1 else 1)


@levels_.slip("One sweep of even probabilities, from end to end: zero is not among the quantiles, unless both sides have as many. Which probability belongs to zero, and how many steps lie on either side of it?")
def one_sweep(edge, below, above):
    q = torch.special.ndtri(torch.linspace(1 - edge, edge, below + above + 1))
    return q / q.max()


@levels_.slip("Your levels are evenly spaced. Where do most weights lie, and where do you have most levels?")
def evenly_spaced(edge, below, above):
    return torch.cat([torch.linspace(-1, 0, below + 1), torch.linspace(0, 1, above + 1)[1:]])


@levels_.slip("`below` and `above` have changed places. On which side of zero is one level more?")
def mirrored(edge, below, above):
    return two_halves(edge, above, below)


@levels_.slip("Both sides have as many levels as the lower one. How many different codes do four bits have, and how many do you use?")
def symmetric(edge, below, above):
    return two_halves(edge, below, below)


@levels_.slip("Both sides have as many levels as the upper one. Do they still fit into four bits, with zero?")
def symmetric_above(edge, below, above):
    return two_halves(edge, above, above)


@levels_.slip("Each side has one level too few: `linspace` was asked for as many points as levels, and its last was dropped. How many points does it take?")
def one_too_few(edge, below, above):
    return two_halves(edge, below - 1, above - 1) if below > 1 else torch.tensor([0.0, 1.0])


@levels_.slip("These are probabilities, not quantiles: `ndtr` goes from a number to the share below it. Which function goes the other way?")
def probabilities(edge, below, above):
    up = torch.special.ndtr(torch.linspace(edge, 0.5, above + 1)[:-1])
    down = -torch.special.ndtr(torch.linspace(edge, 0.5, below + 1)[:-1])
    levels = torch.cat([down, torch.zeros(1), up]).sort().values
    return levels / levels.max()


@levels_.slip("The right levels from the largest down. Which code belongs to -1, if codes count upwards?")
def downwards(edge, below, above):
    return two_halves(edge, below, above).flip(0)


@levels_.slip("The levels come in no order: the halves stand one behind the other. In which order does a code count them?")
def unsorted(edge, below, above):
    up = torch.special.ndtri(torch.linspace(edge, 0.5, above + 1)[:-1])
    down = -torch.special.ndtri(torch.linspace(edge, 0.5, below + 1)[:-1])
    return torch.cat([up, down, torch.zeros(1)]) / up.max()


@levels_.slip("The quantiles themselves are evenly spaced, not their probabilities: your levels are as far apart at the edge as at zero. What is to be even?")
def even_quantiles(edge, below, above):
    q = torch.special.ndtri(torch.tensor(float(edge)))
    return torch.cat([torch.linspace(-1, 0, below + 1), torch.linspace(0, 1, above + 1)[1:]]) * q


@levels_.switched(
    sides=("mirrored",),
    scale=("not-normalised",),
    order=("downwards", "unsorted"),
)
def levels_with_switches(edge, below, above, sides="", scale="", order=""):
    if sides:
        below, above = above, below
    if order == "unsorted":
        levels = unsorted(edge, below, above)
        return levels * torch.special.ndtri(torch.tensor(edge)) if scale else levels
    levels = (not_normalised if scale else two_halves)(edge, below, above)
    return levels.flip(0) if order else levels


# ================================================================ quantise

quantize = Exercise(
    "nf4-quantize",
    lesson=LESSON,
    title="Each weight to its nearest level",
    signature="quantize(W, levels, block)",
    dims={"levels": "levels"},
    why="Here 32 bits become four. All that is lost is lost in this line.",
    points=3,
    minutes=12,
    difficulty=2,
    hints=[
        "Divide every weight by the maximum of its own block: then the block lies in [-1, 1], as the levels do.",
        "Nearest: either the smallest of sixteen distances for each weight, or `torch.bucketize` with the right borders. A border between two levels lies where?",
        "A block of zeros has the maximum zero. What comes out of zero by zero, and what should?",
        "One code a weight, `uint8`, and nothing for what you filled up with.",
    ],
)


@quantize.cases
def quantize_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    told = (
        ((4, 16), NF4, 16, None, "levels of NF4"),
        ((5, 7), NF4, 8, None, "levels of NF4: the last block has 3 weights"),
        ((6, 6), NF4, 9, 1, "levels of NF4, the second block all zeros"),
        ((3, 10), FEW, 6, None, "seven levels"),
        ((2, 3, 4), FEW, 5, None, "seven levels: the last block has 4 weights"),
        ((9, 4), NF4, 12, None, "levels of NF4"),
    )
    return [
        Case(f"`W` of shape {shape}, `block = {block}`, {words}", W=drawn(draw, shape, levels, block, zeros), levels=levels, block=block)
        for shape, levels, block, zeros, words in told
    ]


def _codes(value, name):
    """The codes as whole numbers that can be compared, whatever their type."""
    given(value, torch.Tensor, name)
    if value.is_floating_point() and bool((value != value.round()).any()):
        raise Unexpected(f"{name} gave codes that are no whole numbers, such as {value.flatten()[0].item():.4g}. A code says which level, by its number.")
    return value.detach().to(torch.int16)


@quantize.observe
def look_quantize(answer, case):
    W = case.W.clone()
    codes, maxima = pair(answer(W, case.levels.clone(), case.block), "`quantize`", "the codes and the maxima")
    return {
        "maxima": maxima.detach().clone(),
        "codes": _codes(codes, "`quantize`"),
        "dtype of the codes": str(codes.dtype)[6:],
        "changed in place": changed({"W": case.W}, {"W": W}),
    }


@quantize.solution
def by_borders(W, levels, block):
    flat = blocks(W, block)
    absmax = flat.abs().amax(1)
    scaled = flat / absmax.clamp(min=1e-30)[:, None]
    codes = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2)
    return codes.to(torch.uint8).flatten()[: W.numel()], absmax


@quantize.solution
def by_distances(W, levels, block):
    absmax = scales(W, block)
    each = absmax.repeat_interleave(block)[: W.numel()]
    distances = (W.flatten()[:, None] - levels * each[:, None]).abs()
    codes = distances.argmin(1)
    return torch.where(each > 0, codes, levels.abs().argmin()).to(torch.uint8), absmax


@quantize.solution
def block_by_block(W, levels, block):
    codes, absmax = [], []
    for part in W.flatten().split(block):
        most = part.abs().max()
        scaled = part / most if most > 0 else part
        codes.append((scaled[:, None] - levels).abs().argmin(1).byte())
        absmax.append(most)
    return torch.cat(codes), torch.stack(absmax)


@quantize.solution
def by_counting(W, levels, block):
    absmax = scales(W, block)
    each = absmax.repeat_interleave(block)[: W.numel()]
    scaled = torch.nan_to_num(W.flatten() / each)
    return sum((scaled > border).byte() for border in (levels[:-1] + levels[1:]) / 2), absmax


def quantizer(scale="", near="", kind=""):
    """`quantize` with something wrong in it."""

    def answer(W, levels, block):
        flat = blocks(W, block)
        if scale == "one-scale":
            absmax = flat.abs().max().reshape(1)
        elif scale == "signed-maximum":
            absmax = torch.stack([p.max() for p in W.flatten().split(block)])
        elif scale == "not-scaled":
            absmax = flat.abs().amax(1)
        else:
            absmax = flat.abs().amax(1)
        below = 1e-30 if scale != "divides-by-zero" else 0
        by = absmax.clamp(min=below) if scale != "signed-maximum" else torch.where(absmax == 0, 1e-30, absmax)
        scaled = flat if scale == "not-scaled" else flat / by[:, None]
        codes = {
            "": lambda: torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2),
            "level-above": lambda: torch.bucketize(scaled, levels).clamp(max=len(levels) - 1),
            "level-below": lambda: (torch.bucketize(scaled, levels, right=True) - 1).clamp(min=0),
            "as-if-even": lambda: ((scaled + 1) / 2 * (len(levels) - 1)).round().clamp(0, len(levels) - 1).long(),
            "counted-from-one": lambda: torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2) + 1,
            "furthest": lambda: (scaled[..., None] - levels).abs().argmax(-1),
            "without-the-sign": lambda: torch.bucketize(scaled.abs(), (levels[1:] + levels[:-1]) / 2),
        }[near]()
        codes = codes.flatten() if kind == "padding-kept" else codes.flatten()[: W.numel()]
        return (codes if kind == "not-bytes" else codes.to(torch.uint8)), absmax

    return answer


for kind, name, message in (
    ("scale", "one-scale", "All of `W` shares one scale: its largest weight decides for every block. What does one outlier do to all the others?"),
    ("scale", "signed-maximum", "A block is divided by its largest weight, sign and all. Where does a weight end up that lies further below zero than that?"),
    ("scale", "not-scaled", "The weights go to the levels as they are, not divided by anything. What is the largest level, and how large are the weights?"),
    ("scale", "divides-by-zero", "Right but for a block of zeros: zero divided by zero is no number. Which code is that of a zero?"),
    ("near", "level-above", "Each weight goes to the next level *above* it: `torch.bucketize` with the levels themselves as borders. Where does the border between two levels lie?"),
    ("near", "level-below", "Each weight goes to the next level *below* it. Where does the border between two levels lie, if the nearest is wanted?"),
    ("near", "as-if-even", "Your codes are those of evenly spaced levels: a formula gives them, and the levels are not asked. How far apart are the first two of `levels`, and the middle two?"),
    ("near", "counted-from-one", "Every code is one too large. Which number has the first level, and fits the last into four bits?"),
    ("near", "furthest", "These are the levels *furthest* away. Which of the distances is to be chosen?"),
    ("near", "without-the-sign", "A weight and minus that weight get the same code. Which half of the levels is never used?"),
    ("kind", "not-bytes", "The codes are right, and eight bytes each. Which type holds a number from 0 to 15 in one?"),
    ("kind", "padding-kept", "There are more codes than weights: those of the zeros that filled up the last block are still there. How many weights has `W`?"),
):  # fmt: skip
    quantize.slip(message)(quantizer(**{kind: name}), name)


@quantize.slip("Right but for a block of zeros: zero divided by zero is no number. Which code is that of a zero?")
def divides_by_zero_and_takes_the_nearest(W, levels, block):
    absmax = scales(W, block)
    scaled = W.flatten() / absmax.repeat_interleave(block)[: W.numel()]
    return (scaled[:, None] - levels).abs().argmin(1).to(torch.uint8), absmax


@quantize.slip("The maxima come first and the codes second. In which order were they asked for?")
def maxima_first(W, levels, block):
    return by_borders(W, levels, block)[::-1]


@quantize.slip("You give the level itself for each weight, not its number. How many bits does a level take, and how many its number?")
def levels_for_codes(W, levels, block):
    codes, absmax = by_borders(W, levels, block)
    return levels[codes.long()], absmax


@quantize.slip("The blocks run down the columns of `W`. In which order does `flatten` read a matrix?")
def columns_first(W, levels, block):
    return by_borders(W.transpose(0, -1), levels, block)


@quantize.switched(
    scale=("signed-maximum", "not-scaled"),
    near=("level-above", "level-below", "as-if-even", "counted-from-one", "without-the-sign"),
    kind=("not-bytes",),
)
def quantize_with_switches(W, levels, block, scale="", near="", kind=""):
    return quantizer(scale, near, kind)(W, levels, block)


# ================================================================ pack

pack = Exercise(
    "nf4-pack",
    lesson=LESSON,
    title="Two codes in a byte",
    signature="pack(codes)",
    why="A tensor cannot hold half a byte. Whoever unpacks must know which half came first.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "A byte is `16 * high + low`, with both from 0 to 15. `codes[::2]` is every second one.",
        "The first of two goes into the high half: which of `codes[::2]` and `codes[1::2]` is it?",
        "With an odd number of codes the last one has no partner: put a zero behind it first.",
    ],
)


@pack.cases
def pack_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for n in (8, 12, 7, 1, 2, 13):
        codes = torch.randint(1, 16, (n,), generator=draw).to(torch.uint8)
        cases.append(Case(f"{n} code{'s' * (n > 1)}, the first {codes[:3].tolist()}", codes=codes))
    most = torch.full((6,), 15, dtype=torch.uint8)
    most[1::2] = torch.tensor([0, 9, 15], dtype=torch.uint8)
    return [*cases, Case("6 codes, the first [15, 0, 15]", codes=most)]


@pack.observe
def look_pack(answer, case):
    codes = case.codes.clone()
    seen = given(answer(codes), torch.Tensor, "`pack`")
    return {
        "how many bytes": seen.numel(),
        "bytes": _codes(seen, "`pack`"),
        "dtype": str(seen.dtype)[6:],
        "changed in place": changed({"codes": case.codes}, {"codes": codes}),
    }


@pack.term("bytes")
def halves_of_a_byte(case):
    codes = F.pad(case.codes, (0, len(case.codes) % 2)).to(torch.int16)
    return {"part of the first code": 16 * codes[::2], "part of the second code": codes[1::2]}


@pack.evidence
def read_again(cases, seen, expected):
    """What a reader would take the first wrong byte for."""
    for case, mine, due in zip(cases, seen, expected, strict=True):
        if "error" in mine or mine["bytes"].shape != due["bytes"].shape or mine["bytes"].is_floating_point():
            return None
        wrong = (mine["bytes"] != due["bytes"]).nonzero().flatten().tolist()
        if wrong:
            byte, two = int(mine["bytes"][wrong[0]]) % 256, [*case.codes[2 * wrong[0] : 2 * wrong[0] + 2].tolist(), 0][:2]
            return (
                f"A reader takes your byte {byte} for the codes {byte >> 4} and {byte & 15}; packed were {two[0]} and {two[1]}. "
                "Which four bits of a byte hold which code?"
            )
    return None


@pack.solution
def by_shifting(codes):
    codes = F.pad(codes, (0, len(codes) % 2))
    return codes[::2] << 4 | codes[1::2]


@pack.solution
def by_sixteen(codes):
    packed = codes[::2] * 16
    packed[: len(codes) // 2] += codes[1::2]
    return packed


@pack.solution
def pair_by_pair(codes):
    every = codes.tolist() + [0] * (len(codes) % 2)
    return torch.tensor([16 * first + second for first, second in zip(every[::2], every[1::2])], dtype=torch.uint8)


@pack.solution
def as_rows(codes):
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    return (codes.view(-1, 2).int() * torch.tensor([16, 1])).sum(1).to(torch.uint8)


def packer(f):
    return lambda codes: f(F.pad(codes, (0, len(codes) % 2)))


pack.slip("The first code stands in the low four bits. bitsandbytes reads the high ones first: what would it take the first weight for?")(
    packer(lambda c: c[1::2] << 4 | c[::2]), "low-half-first"
)
pack.slip("Each byte holds one code of the first half of the list and one of the second. Which two weights stand beside each other?")(
    packer(lambda c: c[: len(c) // 2] << 4 | c[len(c) // 2 :]), "two-halves-of-the-list"
)
MOVED_TOO_FAR = "`+` binds before `<<`: the first code is moved by four *plus the second*. Which brackets are missing, or which sign joins bits?"
pack.slip(MOVED_TOO_FAR)(packer(lambda c: c[::2] << (4 + c[1::2])), "moved-by-the-second")
pack.slip(MOVED_TOO_FAR)(lambda codes: codes[::2] << (4 + codes[1::2]), "moved-by-the-second-without-filling-up")
pack.slip("Two codes are added up in each byte. From a sum of 9, which two were they?")(packer(lambda c: c[::2] + c[1::2]), "added-up")
pack.slip("The two codes of a byte share a bit: the first is moved by three places, and takes up four. By how many is it to be moved?")(
    packer(lambda c: c[::2] << 3 | c[1::2]), "three-bits"
)
pack.slip("The first code is multiplied by 15. How many different codes does the low half hold?")(
    packer(lambda c: c[::2] * 15 + c[1::2]), "times-fifteen"
)
pack.slip("The first code is multiplied by 17. How many different codes does the low half hold?")(
    packer(lambda c: c[::2] * 17 + c[1::2]), "times-seventeen"
)
pack.slip("The first code is moved by five places, and its highest bit falls out of the byte. By how many is it to be moved?")(
    packer(lambda c: c[::2] << 5 | c[1::2]), "five-bits"
)
pack.slip("The two codes lie on top of each other, in the same four bits. What moves the first of them up?")(
    packer(lambda c: c[::2] | c[1::2]), "not-moved"
)
pack.slip("Both halves of a byte hold the same code. Where does the slice for the second begin?")(
    packer(lambda c: c[::2] << 4 | c[::2]), "first-one-twice"
)
pack.slip("Only the first code of each two is there. Where is the second?")(packer(lambda c: c[::2] << 4), "second-missing")
pack.slip("Only the second code of each two is there. Which four bits are for the first?")(packer(lambda c: c[1::2]), "first-missing")
pack.slip("The bytes are right, and each of them takes eight. Which type is one byte?")(
    packer(lambda c: c[::2].long() << 4 | c[1::2].long()), "not-bytes"
)
pack.slip("Nothing is packed: as many numbers come out as went in. How many codes fit into a byte?")(lambda codes: codes.clone(), "not-packed")


@pack.slip("With an odd number of codes the last is lost. What can stand in the low half beside it?")
def last_one_dropped(codes):
    even = codes[: len(codes) // 2 * 2]
    return even[::2] << 4 | even[1::2]


@pack.slip("With an odd number of codes you fill up in front, and all of them change halves. At which end is a code missing?")
def filled_in_front(codes):
    codes = F.pad(codes, (len(codes) % 2, 0))
    return codes[::2] << 4 | codes[1::2]


@pack.slip("With an odd number of codes the last one stands in the low half, alone. Which half does the first of a pair belong to?")
def last_one_low(codes):
    packed = by_shifting(codes)
    if len(codes) % 2:
        packed[-1] = codes[-1]
    return packed


# ================================================================ dequantise

dequantize = Exercise(
    "nf4-dequantize",
    lesson=LESSON,
    title="Back to a weight",
    signature="dequantize(packed, absmax, levels, shape, block)",
    dims={"packed": "bytes", "absmax": "blocks", "levels": "levels"},
    why="It runs in every layer, forward and backward: this, and not the original, is the weight that the model computes with.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "First the codes: `packed >> 4` is the high half of each byte, `packed & 15` the low one. They stand in turns.",
        "A code is looked up: `levels[codes.long()]`. With an odd number of weights there is one code too many.",
        "Each maximum belongs to `block` neighbours: a, a, a, b, b, b, and not a, b, a, b.",
    ],
)


@dequantize.cases
def dequantize_cases(seed):
    cases = []
    for case in quantize_cases(seed):
        codes, maxima = nf4.quantize(case.W, case.block, lambda levels=case.levels: levels)
        shape = tuple(case.W.shape)
        label = case.label.replace("`W` of shape", "`shape =").replace("), ", ")`, ", 1)
        cases.append(Case(label, packed=nf4.pack(codes), absmax=maxima, levels=case.levels, shape=shape, block=case.block))
    return cases


@dequantize.observe
def look_dequantize(answer, case):
    inputs = {"packed": case.packed.clone(), "absmax": case.absmax.clone(), "levels": case.levels.clone()}
    W = given(answer(**inputs, shape=case.shape, block=case.block), torch.Tensor, "`dequantize`")
    return {"weight": W.detach().clone(), "changed in place": changed({k: getattr(case, k) for k in inputs}, inputs)}


@dequantize.evidence
def which_half(cases, seen, expected):
    """Are the weights wrong that come from one half of each byte?"""
    wrong = {"high": 0, "low": 0}
    for mine, due in zip(seen, expected, strict=True):
        if "error" in mine or mine["weight"].shape != due["weight"].shape:
            return None
        off = ~torch.isclose(mine["weight"].double().flatten(), due["weight"].double().flatten(), rtol=1e-4, atol=1e-6)
        for half, start in (("high", 0), ("low", 1)):
            wrong[half] += int(off[start::2].sum())
    for half, other in (("high", "low"), ("low", "high")):
        if wrong[half] and not wrong[other]:
            return (
                f"Every weight whose code stands in the {other} half of a byte is right; of the others, in the {half} half, {wrong[half]} are "
                f"wrong. What do you take from a byte for the {half} half?"
            )
    return None


@dequantize.solution
def looked_up(packed, absmax, levels, shape, block):
    n = math.prod(shape)
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n]
    values = levels[codes.long()] * absmax.repeat_interleave(block)[:n]
    return values.view(shape)


@dequantize.solution
def in_turns(packed, absmax, levels, shape, block):
    W = torch.empty(2 * len(packed))
    W[::2] = levels[(packed // 16).int()]
    W[1::2] = levels[(packed % 16).int()]
    W = W[: math.prod(shape)]
    number = torch.arange(len(W)) // block
    return (W * absmax[number]).reshape(shape)


@dequantize.solution
def weight_by_weight(packed, absmax, levels, shape, block):
    table, maxima, out = levels.tolist(), absmax.tolist(), []
    for i in range(math.prod(shape)):
        byte = int(packed[i // 2])
        code = byte & 15 if i % 2 else byte >> 4
        out.append(table[code] * maxima[i // block])
    return torch.tensor(out).reshape(shape)


@dequantize.solution
def in_blocks(packed, absmax, levels, shape, block):
    n = math.prod(shape)
    codes = torch.cat([(packed >> 4)[:, None], (packed & 15)[:, None]], 1).reshape(-1)[:n]
    table = absmax[:, None] * levels  # what each block can hold
    number = torch.arange(n).div(block, rounding_mode="floor")
    return table[number, codes.long()].view(*shape)


def dequantizer(halves="", look="", scale="", form=""):
    """`dequantize` with something wrong in it."""

    def answer(packed, absmax, levels, shape, block):
        n = math.prod(shape)
        high, low = packed >> 4, packed & 15
        codes = {
            "": lambda: torch.stack([high, low], 1).flatten(),
            "low-half-first": lambda: torch.stack([low, high], 1).flatten(),
            "one-half-behind-the-other": lambda: torch.cat([high, low]),
        }[halves]()[:n]
        values = {
            "": lambda: levels[codes.long().clamp(max=len(levels) - 1)],
            "as-if-even": lambda: 2 * codes.float() / (len(levels) - 1) - 1,
            "codes-for-levels": lambda: codes.float(),
            "as-a-signed-number": lambda: (codes.float() - 8) / 7,
        }[look]()
        each = {
            "": lambda: absmax.repeat_interleave(block)[:n],
            "not-scaled": lambda: torch.ones(n),
            "maxima-in-turns": lambda: absmax.repeat(block)[:n],
            "one-scale": lambda: absmax.max().expand(n),
            "divided": lambda: 1 / absmax.repeat_interleave(block)[:n],
        }[scale]()
        values = values * each
        if form == "turned":
            return values.view(shape[::-1]).permute(*range(len(shape))[::-1])
        return values if form == "flat" else values.view(shape)

    return answer


for kind, name, message in (
    ("halves", "low-half-first", "Neighbours have changed places: the low half of each byte is read first. Into which half did `pack` put the first code?"),
    ("halves", "one-half-behind-the-other", "First come all the high halves, then all the low ones. Where does the second weight stand in memory?"),
    ("look", "as-if-even", "A formula turns codes into evenly spaced numbers. NF4 is no number format: what has to be asked what a code means?"),
    ("look", "codes-for-levels", "The codes themselves are multiplied by the maxima. What does code 7 of NF4 stand for?"),
    ("look", "as-a-signed-number", "You read a code as a signed number of four bits. NF4 is no number format: what has to be asked what a code means?"),
    ("scale", "not-scaled", "Every weight lies between -1 and 1: these are levels still. What were they divided by?"),
    ("scale", "maxima-in-turns", "The maxima take turns: a, b, a, b. Which weights are in the first block?"),
    ("scale", "one-scale", "One maximum scales all blocks. To which of them does it belong?"),
    ("scale", "divided", "You divide by the maxima. Quantising divided too: what undoes it?"),
    ("form", "turned", "The numbers were written down column by column. In which order were they read?"),
    ("form", "flat", "The weights are right and stand in one row. Which shape had the matrix?"),
):  # fmt: skip
    dequantize.slip(message)(dequantizer(**{kind: name}), name)


@dequantize.switched(
    halves=("low-half-first", "one-half-behind-the-other"),
    look=("as-if-even", "as-a-signed-number", "codes-for-levels"),
    scale=("not-scaled", "maxima-in-turns", "one-scale"),
    form=("turned", "flat"),
)
def dequantize_with_switches(packed, absmax, levels, shape, block, halves="", look="", scale="", form=""):
    return dequantizer(halves, look, scale, form)(packed, absmax, levels, shape, block)


# ================================================================ double quantisation

double = Exercise(
    "nf4-double",
    lesson=LESSON,
    title="Quantise the maxima too",
    signature="double_quantize(absmax, levels, group)",
    dims={"absmax": "blocks", "levels": "levels"},
    why="A maximum of 32 bits for every 64 weights is half a bit a weight: more than the difference between formats.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "The maxima are all positive, and the levels lie on both sides of zero. What must be taken away first, so that both sides are used?",
        "What is left is a tensor to be quantised like any other: you have written that function.",
        "Whoever reads it needs three things back. The mean is one number for all the maxima.",
    ],
)


def dynamic(bits=8):
    """bitsandbytes' dynamic code of so many bits: the closer the smaller; `peftlab.nf4.dynamic_levels` at 8."""
    up = []
    for i in range(bits - 1):
        ends = torch.linspace(0.1, 1, 2**i + 1)
        up.append(10.0 ** (i - bits + 2) * (ends[:-1] + ends[1:]) / 2)
    up = torch.cat(up)
    return torch.cat([-up, up, torch.tensor([0.0, 1.0])]).sort().values


@double.cases
def double_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for n, bits, group in ((12, 4, 4), (10, 4, 4), (24, 5, 8), (9, 3, 16), (14, 5, 5), (16, 8, 8)):
        levels = dynamic(bits)
        while True:
            maxima = 0.5 + 2 * torch.rand(n, generator=draw)
            if n == 24:
                maxima = maxima.sort().values  # a group all of whose entries lie below the mean
            centred = maxima - maxima.mean()
            lone = len(centred) % group == 1 and centred[-1].abs() < 0.05
            if not lone and clear(centred, levels, group, 1e-5):
                break
        last = n % group
        label = f"{n} maxima, `group = {group}`, {len(levels)} levels" + (f": the last group has {last}" if last else "")
        cases.append(Case(label, absmax=maxima, levels=levels, group=group))
    return cases


def _three(value):
    given(value, (tuple, list), "`double_quantize`")
    if len(value) != 3:
        raise Unexpected(f"`double_quantize` gave {len(value)} things; expected three: the codes, the scales and the mean.")
    codes, scale, mean = value
    mean = torch.as_tensor(mean, dtype=torch.float32) if isinstance(mean, (int, float)) else given(mean, torch.Tensor, "`double_quantize`")
    return given(codes, torch.Tensor, "`double_quantize`"), given(scale, torch.Tensor, "`double_quantize`"), mean


@double.observe
def look_double(answer, case):
    maxima = case.absmax.clone()
    codes, scale, mean = _three(answer(maxima, case.levels.clone(), case.group))
    return {
        "scales": scale.detach().clone(),
        "codes": _codes(codes, "`double_quantize`"),
        "mean": mean.detach().float().squeeze().clone(),
        "dtype of the codes": str(codes.dtype)[6:],
        "changed in place": changed({"absmax": case.absmax}, {"absmax": maxima}),
    }


@double.solution
def the_same_again(absmax, levels, group):
    mean = absmax.mean()
    codes, scale = by_borders(absmax - mean, levels, group)
    return codes, scale, mean


@double.solution
def group_by_group(absmax, levels, group):
    mean, codes, scale = absmax.sum() / len(absmax), [], []
    for part in (absmax - mean).split(group):
        most = part.abs().max()
        codes.append((part[:, None] / most - levels).abs().argmin(1))
        scale.append(most)
    return torch.cat(codes).to(torch.uint8), torch.stack(scale), mean


@double.solution
def by_distances_again(absmax, levels, group):
    mean = absmax.mean()
    codes, scale = by_distances(absmax - mean, levels, group)
    return codes, scale, mean.item()


def doubler(centre="", scale="", near=""):
    """`double_quantize` with something wrong in it."""

    def answer(absmax, levels, group):
        mean = {
            "": lambda: absmax.mean(),
            "not-centred": lambda: torch.zeros(()),
            "smallest-for-mean": lambda: absmax.min(),
            "median-for-mean": lambda: absmax.median(),
            "mean-of-each-group": lambda: torch.stack([p.mean() for p in absmax.split(group)]),
            "mean-forgotten": lambda: absmax.mean(),
            "mean-not-taken-away": lambda: absmax.mean(),
            "mean-added": lambda: absmax.mean(),
        }[centre]()
        rest = absmax if centre == "mean-not-taken-away" else absmax + mean if centre == "mean-added" else absmax - (mean.repeat_interleave(group)[: len(absmax)] if mean.ndim else mean)
        flat = blocks(rest, group)
        if scale == "one-scale":
            flat = rest[None]
        by = flat.amax(1) if scale == "signed-maximum" else flat.abs().amax(1)
        by = torch.where(by == 0, 1e-30, by)
        scaled = flat / by[:, None]
        codes = (127 * scaled).round() + 127 if near == "linear" else nearest(scaled, levels)
        if near == "level-above":
            codes = torch.bucketize(scaled, levels).clamp(max=len(levels) - 1)
        codes = codes.flatten()[: len(absmax)]
        codes = codes if near == "not-bytes" else codes.to(torch.uint8)
        return codes, by, torch.zeros(()) if centre == "mean-forgotten" else mean

    return answer


for kind, name, message in (
    ("centre", "not-centred", "The maxima are quantised as they are: all are positive, so the negative half of the levels is never used. What should be taken away first?"),
    ("centre", "smallest-for-mean", "You take the smallest maximum away, not their mean: what is left is positive, and half of the levels is never used. Which number lies in the middle?"),
    ("centre", "median-for-mean", "You take the median away. bitsandbytes takes the mean: how would it read your file?"),
    ("centre", "mean-of-each-group", "Each group has a mean of its own. How many bits does one more number for every group take?"),
    ("centre", "mean-forgotten", "You take the mean away and give zero back for it. What will the reader add?"),
    ("centre", "mean-not-taken-away", "You give the mean back, and the maxima are quantised with it still inside. What will the reader do with the mean?"),
    ("centre", "mean-added", "The mean is added. What is to be left, so that it lies on both sides of zero?"),
    ("scale", "one-scale", "There is one scale for all maxima. How many of them share one, by `group`?"),
    ("scale", "signed-maximum", "The scale of a group is its largest entry, sign and all. Less the mean, some are negative now: which of them may be largest?"),
    ("near", "linear", "Your codes are those of an evenly spaced code of eight bits. What are `levels` for?"),
    ("near", "level-above", "Each maximum goes to the next level *above* it. Where does the border between two levels lie, if the nearest is wanted?"),
    ("near", "not-bytes", "The codes are right, and eight bytes each: as much as if nothing had been quantised, twice. Which type holds a number from 0 to 255?"),
):  # fmt: skip
    double.slip(message)(doubler(**{kind: name}), name)


@double.slip("Codes, mean, scales: the last two have changed places. In which order were they asked for?")
def mean_second(absmax, levels, group):
    codes, scale, mean = the_same_again(absmax, levels, group)
    return codes, mean, scale


@double.slip("The mean is taken away after dividing. Then the largest of a group is not at 1 any more: which comes first?")
def centred_after_scaling(absmax, levels, group):
    scale = scales(absmax, group)
    scaled = absmax / scale.repeat_interleave(group)[: len(absmax)]
    return nearest(scaled - scaled.mean(), levels).to(torch.uint8), scale, scaled.mean()


@double.switched(
    centre=("not-centred", "smallest-for-mean", "median-for-mean", "mean-of-each-group", "mean-not-taken-away", "mean-added"),
    scale=("signed-maximum",),
    near=("linear", "level-above", "not-bytes"),
)
def double_with_switches(absmax, levels, group, centre="", scale="", near=""):
    return doubler(centre, scale, near)(absmax, levels, group)


# ================================================================ bits a weight

bits = Exercise(
    "nf4-bits",
    lesson=LESSON,
    title="How many bits a weight?",
    signature="bits_per_weight(block, group)",
    why="Four bits are not four: the scales cost as well, and how much is a choice.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "What is stored once for a block is shared by `block` weights.",
        "With double quantisation a maximum has eight bits in place of 32, and there is one more number of 32 bits: for how many *weights*?",
    ],
)


@bits.cases
def bits_cases(seed):
    sizes = [(64, None), (64, 256), (32, None), (128, 256), (256, 64), (16, 8), (4096, None), (24, 40)]
    return [Case(f"`block = {b}`, `group = {g}`", block=b, group=g) for b, g in sizes]


@bits.observe
def look_bits(answer, case):
    seen = answer(case.block, case.group)
    if isinstance(seen, torch.Tensor):
        seen = seen.item()
    return {"bits a weight": float(given(seen, (int, float), "`bits_per_weight`"))}


@bits.term("bits a weight")
def shares(case):
    if case.group is None:
        return {"code": 4, "share of the block's maximum": 32 / case.block, "share of the group's scale": 0}
    return {"code": 4, "share of the block's maximum": 8 / case.block, "share of the group's scale": 32 / (case.block * case.group)}


@bits.solution
def in_one_line(block, group):
    return 4 + 32 / block if group is None else 4 + 8 / block + 32 / (block * group)


@bits.solution
def inside_out(block, group):
    of_a_maximum = 32 if group is None else 8 + 32 / group
    return 4 + of_a_maximum / block


@bits.solution
def by_a_large_tensor(block, group):
    n = block * (group or 1)
    stored = 4 * n
    if group is None:
        stored += 32 * (n // block)
    else:
        stored += 8 * (n // block) + 32
    return stored / n


for name, message, f in (
    ("bytes-for-bits", "The scales are counted in bytes and the codes in bits. How many bits has a byte?", lambda b, g: 4 + 4 / b if g is None else 4 + 1 / b + 4 / (b * g)),
    ("scale-of-sixteen-bits", "A maximum is counted with 16 bits. How many has a float32?", lambda b, g: 4 + 16 / b if g is None else 4 + 8 / b + 16 / (b * g)),
    ("group-of-weights", "The scale of a group is shared by `group` weights, as you have it. How many weights does a group of *blocks* have?", lambda b, g: 4 + 32 / b if g is None else 4 + 8 / b + 32 / g),
    ("no-second-scale", "With double quantisation the scale of each group is missing. What were the maxima divided by?", lambda b, g: 4 + 32 / b if g is None else 4 + 8 / b),
    ("never-double", "`group` changes nothing in your count. How many bits has a maximum once it is quantised itself?", lambda b, g: 4 + 32 / b),
    ("maxima-kept-as-well", "The maxima are counted twice: in 32 bits, and in eight. Are the first still needed?", lambda b, g: 4 + 32 / b if g is None else 4 + 40 / b + 32 / (b * g)),
    ("codes-alone", "The scales are missing: these are the codes alone. What is needed to read them?", lambda b, g: 4.0),
    ("scales-alone", "The codes are missing: these are the scales alone. How many bits has a code?", lambda b, g: 32 / b if g is None else 8 / b + 32 / (b * g)),
    ("a-byte-a-code", "A code is counted with eight bits. What was packing for?", lambda b, g: 8 + 32 / b if g is None else 8 + 8 / b + 32 / (b * g)),
    ("eight-bits-always", "Without double quantisation a maximum has 32 bits still. Where does `group = None` come in?", lambda b, g: 4 + 8 / b if g is None else 4 + 8 / b + 32 / (b * g)),
):  # fmt: skip
    bits.slip(message)(lambda block, group, f=f: f(block, group), name)


# ================================================================ what a merge will lose

ratio = Exercise(
    "nf4-error-to-update",
    lesson=LESSON,
    title="What a merge will lose, before it is made",
    signature="error_to_update(weights, dequantized, updates)",
    why="Two norms say beforehand whether a merge is harmless or the end of what was learnt.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "Two Frobenius norms: of what quantising changed, and of what training added.",
        "Over several layers: add up the squares of all layers, then take one root. It is the norm of all entries in one long row.",
        "The quotient is to be large where the error is large.",
    ],
)


@ratio.cases
def ratio_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for shapes, noise, size, words in (
        ([(6, 8)], 0.1, 0.5, "one layer"),
        ([(6, 8), (4, 10)], 0.1, 0.01, "two layers, small updates"),
        ([(3, 9), (12, 5), (7, 7)], 0.3, 1.0, "three layers"),
        ([(8, 3), (4, 6)], 0.05, 2.0, "two layers, large updates"),
        ([(5, 5), (9, 2), (2, 9), (6, 4)], 0.2, 0.1, "four layers"),
    ):
        weights = [torch.randn(*s, generator=draw) * (1 + i) for i, s in enumerate(shapes)]
        off = [W + noise * torch.randn(*W.shape, generator=draw) for W in weights]
        updates = [size / (1 + 2 * i) * torch.randn(*W.shape, generator=draw) for i, W in enumerate(weights)]
        cases.append(Case(words, weights=weights, dequantized=off, updates=updates))
    weights = [torch.randn(4, 6, generator=draw) for _ in range(3)]
    off = [W + 0.1 * torch.randn(4, 6, generator=draw) for W in weights]
    updates = [torch.zeros(4, 6), torch.randn(4, 6, generator=draw), torch.zeros(4, 6)]
    cases.append(Case("three layers, of which one alone has an update", weights=weights, dequantized=off, updates=updates))
    return cases


@ratio.observe
def look_ratio(answer, case):
    inputs = [[t.clone() for t in ts] for ts in (case.weights, case.dequantized, case.updates)]
    seen = answer(*inputs)
    if isinstance(seen, torch.Tensor):
        seen = given(seen, torch.Tensor, "`error_to_update`").detach().double()
        if seen.numel() != 1:
            raise Unexpected(f"`error_to_update` gave {seen.numel()} numbers; expected one, for all layers together.")
        seen = seen.item()
    return {"error / update": Near(float(given(seen, (int, float), "`error_to_update`")), 1e-4)}


def size(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm()


@ratio.solution
def one_long_row(weights, dequantized, updates):
    error = [a - b for a, b in zip(dequantized, weights)]
    return size(error) / size(updates)


@ratio.solution
def sums_of_squares(weights, dequantized, updates):
    error = sum((W - W4).square().sum() for W, W4 in zip(weights, dequantized))
    update = sum(u.square().sum() for u in updates)
    return (error / update) ** 0.5


@ratio.solution
def norms_of_norms(weights, dequantized, updates):
    errors = torch.stack([torch.dist(W, W4) for W, W4 in zip(weights, dequantized)])
    return float(errors.norm() / torch.stack([u.norm() for u in updates]).norm())


@ratio.solution
def in_plain_numbers(weights, dequantized, updates):
    error = update = 0.0
    for W, W4, u in zip(weights, dequantized, updates):
        error += float(((W - W4) ** 2).sum())
        update += float((u**2).sum())
    return math.sqrt(error / update)


def _of_each(W, W4, u):
    return [(a - b).norm() / c.norm().clamp(min=1e-12) for a, b, c in zip(W, W4, u)]


for name, message, f in (
    ("upside-down", "The quotient is upside down: it falls when the error grows. Which of the two norms is to stand above?", lambda W, W4, u: 1 / one_long_row(W, W4, u)),
    ("beside-the-weights", "The error is measured against the weights. That says what quantising does to the *base*: what is it to be measured against here?", lambda W, W4, u: size([a - b for a, b in zip(W, W4)]) / size(W)),
    ("mean-of-the-layers", "This is the mean of the quotients of the layers. What does a layer with hardly an update do to that mean?", lambda W, W4, u: sum(_of_each(W, W4, u)) / len(W)),
    ("largest-of-the-layers", "This is the quotient of the worst layer. What is the norm of all entries together?", lambda W, W4, u: max(_of_each(W, W4, u))),
    ("not-rooted", "The root is missing: these are squares. What is twice as large, if every entry is twice as large?", lambda W, W4, u: one_long_row(W, W4, u) ** 2),
    ("norms-added-up", "The norms of the layers are added up, above and below. Which sum belongs under one root?", lambda W, W4, u: sum((a - b).norm() for a, b in zip(W, W4)) / sum(c.norm() for c in u)),
    ("absolute-values", "These are sums of absolute values. Which norm was asked for?", lambda W, W4, u: sum((a - b).abs().sum() for a, b in zip(W, W4)) / sum(c.abs().sum() for c in u)),
    ("sum-of-the-errors", "The differences are added up with their signs, and cancel. What makes every difference count?", lambda W, W4, u: sum((a - b).sum() for a, b in zip(W, W4)).abs() / size(u)),
    ("weight-for-error", "Above the line stands the norm of the quantised weights. What is the *error* of quantising?", lambda W, W4, u: size(W4) / size(u)),
    ("update-in-the-error", "The update is inside your error. What did quantising change, before anything was trained?", lambda W, W4, u: size([a + c - b for a, b, c in zip(W, W4, u)]) / size(u)),
    ("update-out-of-the-error", "The update is inside your error. What did quantising change, before anything was trained?", lambda W, W4, u: size([a - c - b for a, b, c in zip(W, W4, u)]) / size(u)),
    ("first-layer-alone", "This is the quotient of the first layer. Where do the others come in?", lambda W, W4, u: one_long_row(W[:1], W4[:1], u[:1])),
    ("beside-base-and-update", "Below the line stands the norm of weight and update together. Which part of it is lost in a merge?", lambda W, W4, u: size([a - b for a, b in zip(W, W4)]) / size([a + c for a, c in zip(W, u)])),
):  # fmt: skip
    ratio.slip(message)(lambda weights, dequantized, updates, f=f: f(weights, dequantized, updates), name)
