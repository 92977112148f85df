"""Lesson 07, small and strong: biases (arXiv:2106.10199), (IA)3 (2205.05638), norms (2312.11420), rows of a table."""

import math
import statistics
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import changed, fresh, given, gradients, pair, tiny_llama

LESSON = "07-small-and-strong"


# ================================================================ predict

one_bias = Question(
    "one-bias",
    lesson=LESSON,
    title="What a bias can do",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="In a frozen transformer you train one bias of one linear layer in the first block. Two texts went through that "
    "layer with outputs that differed by some vector. After training, by how much do they differ: right after the layer, "
    "and at the end of the model?",
    options={
        "a": (
            "by the same vector in both places",
            "Right after the layer, yes: both were moved by the same bias. Is everything that follows linear, though?",
        ),
        "b": (
            "by the same vector after the layer, by another one at the end",
            (
                "A bias moves every text by the same amount, so differences stay; then come softmax, activations and norms, "
                "and they treat what was moved differently."
            ),
        ),
        "c": (
            "by another vector in both places",
            "The layer's output is W x + b. Subtract two of them: what is left of b?",
        ),
        "d": (
            "by another vector after the layer, by the same one at the end",
            "Later layers cannot make up for it: they are frozen. And what happens to b when two outputs are subtracted?",
        ),
    },
    right="b",
)


# ================================================================ biases

train_biases = Exercise(
    "train-biases",
    lesson=LESSON,
    title="BitFit",
    signature="train_biases(model)",
    why="This is the whole method. What can go wrong is to train more, or fewer, or nothing at all.",
    points=1,
    parts=[
        Part("what is trainable in the model is", 0.5, ("trainable in the model",)),
        Part("their number is", 0.5, ("trainable parameters, as returned",), needs="what is trainable in the model is"),
    ],
    minutes=6,
    difficulty=1,
    hints=[
        "A parameter is a bias by its own name, the last part of the full one: `blocks.0.gate.bias`.",
        "Some layers keep several biases in one tensor, whose name only ends in `bias`. A layer's name may begin with it.",
        "Set the flag in both directions: a parameter may arrive switched off. `p.numel()` counts the entries of a tensor.",
    ],
)


class Tangle(nn.Module):
    """Names that are traps: a layer called `bias_gate`, three biases in one tensor, layers and norms without a bias."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.bias_gate = nn.Linear(6, 5, bias=False)
        self.up = nn.Linear(5, 4)
        self.norm = nn.LayerNorm(4)
        self.scale = nn.RMSNorm(4)
        self.head = nn.Linear(4, 3)


@train_biases.cases
def bias_cases(seed):
    return [
        Case("a model in which everything is trainable", seed=seed, off=(), make=Tangle),
        Case("a model that was frozen before", seed=seed + 1, off=("",), make=Tangle),
        Case("a model whose attention arrives frozen", seed=seed + 2, off=("attention",), make=Tangle),
        Case("a small Llama", seed=seed + 3, off=(), make=lambda: tiny_llama(3)),
    ]


@train_biases.observe
def look_biases(answer, case):
    torch.manual_seed(case.seed)
    model = case.make()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    for name, p in model.named_parameters():
        p.requires_grad_(not any(name.startswith(o) for o in case.off))
    before = fresh(dict(model.named_parameters()))
    count = given(answer(model), int, "`train_biases`")
    after = dict(model.named_parameters())
    return {
        "trainable in the model": [n for n, p in after.items() if p.requires_grad],
        "trainable parameters, as returned": count,
        "parameters changed": changed(before, after),
    }


def _train(model, chosen, counted=torch.Tensor.numel):
    for name, p in model.named_parameters():
        p.requires_grad = bool(chosen(name, p))
    return sum(counted(p) for p in model.parameters() if p.requires_grad)


@train_biases.solution
def one_loop(model):
    trained = 0
    for name, p in model.named_parameters():
        p.requires_grad = name.endswith("bias")
        if p.requires_grad:
            trained += p.numel()
    return trained


@train_biases.solution
def freeze_first(model):
    model.requires_grad_(False)
    biases = [p for name, p in model.named_parameters() if name.rsplit(".", 1)[-1].endswith("bias")]
    for p in biases:
        p.requires_grad_(True)
    return sum(p.numel() for p in biases)


@train_biases.solution
def module_by_module(model):
    total = 0
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            p.requires_grad = name.endswith("bias")
            total += len(p) * p.requires_grad
    return total


train_biases.slip(
    "More than biases are trained. A layer's name may hold the word: which part of `bias_gate.weight` says what it is?"
)(lambda model: _train(model, lambda n, p: "bias" in n), "the-word-anywhere")
train_biases.slip(
    "Some biases stay frozen. `nn.MultiheadAttention` keeps those of query, key and value in one tensor: what is it called?"
)(lambda model: _train(model, lambda n, p: n.split(".")[-1] == "bias"), "called-bias-and-nothing-else")
train_biases.slip("The weights of the norms are trained as well. Which parameters have one dimension and are no biases?")(
    lambda model: _train(model, lambda n, p: p.dim() == 1), "everything-one-dimensional"
)
train_biases.slip("You counted tensors. How many parameters are in one bias?")(
    lambda model: _train(model, lambda n, p: n.endswith("bias"), lambda p: 1), "tensors-counted"
)


@train_biases.slip("What was trainable before still is. Who freezes the weights?")
def nothing_frozen(model):
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            p.requires_grad = True
    return sum(p.numel() for n, p in model.named_parameters() if n.endswith("bias"))


@train_biases.slip("Biases that arrived frozen stay frozen. In which directions does your loop set the flag?")
def never_switched_on(model):
    for name, p in model.named_parameters():
        if not name.endswith("bias"):
            p.requires_grad = False
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@train_biases.slip("Only the biases of linear layers are trained. Which other layers have one?")
def linear_layers_only(model):
    model.requires_grad_(False)
    found = [m.bias for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    for p in found:
        p.requires_grad_(True)
    return sum(p.numel() for p in found)


@train_biases.slip(
    "The right ones are trained; the number you return is that of the whole model. Which were asked for?"
)
def counts_the_model(model):
    _train(model, lambda n, p: n.endswith("bias"))
    return sum(p.numel() for p in model.parameters())


@train_biases.slip("The biases have been set to zero. Where did the pretrained model have them?")
def starts_from_zero(model):
    count = _train(model, lambda n, p: n.endswith("bias"))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    return count


# ================================================================ (IA)³

SHAPES = [((5,), 7, 4), ((2, 3), 6, 6), ((), 5, 8), ((2, 2, 3), 4, 4)]  # batch, d_in, d_out; square where mix-ups hide


def _layers(seed, extra=()):
    draw = torch.Generator().manual_seed(seed)
    for i, (batch, d_in, d_out) in enumerate(SHAPES):
        for feedforward in (False, True):
            sizes = {
                "x": (*batch, d_in),
                "weight": (d_out, d_in),
                "bias": (d_out,),
                "l": (d_in if feedforward else d_out,),
            }
            tensors = {k: torch.randn(*s, generator=draw) for k, s in sizes.items()}
            tensors["l"] = tensors["l"].abs() + 0.3
            label = f"`d_in = {d_in}`, `d_out = {d_out}`, `x` of shape {(*batch, d_in)}, `feedforward = {feedforward}`"
            yield Case(label, tensors=tensors, feedforward=feedforward, bias="bias" in tensors)


def _without_a_bias(seed):
    """The same layers as a Llama has them; square, so that nothing but the missing bias is new."""
    for case in list(_layers(seed))[2:4]:
        del case.tensors["bias"]
        yield Case(f"{case.label}, `bias = None`", tensors=case.tensors, feedforward=case.feedforward, bias=False)


ia3_forward = Exercise(
    "ia3-forward",
    lesson=LESSON,
    title="(IA)³: a factor for every feature",
    signature="ia3_forward(x, weight, bias, l, feedforward)",
    dims={"x": "... d_in", "weight": "d_out d_in", "bias": "d_out"},
    why="Where a bias adds, a factor turns a feature up, down or off, and that depends on the input.",
    points=1,
    parts=[
        Part("a factor on what comes out is", 0.5, cases=lambda case: not case.feedforward),
        Part("one on what goes in is", 0.5, cases=lambda case: case.feedforward),
    ],
    minutes=6,
    difficulty=1,
    hints=[
        "Follow the shapes: `l` has as many entries as the vector it is multiplied with.",
        "At a feed-forward layer the factors stand before the layer, everywhere else after it.",
        "After the layer means after all of it: what leaves a linear layer is `weight @ x + bias`. `F.linear` takes a bias of None.",
    ],
)
ia3_forward.cases(lambda seed: [*_layers(seed), *_without_a_bias(seed + 20)])


@ia3_forward.observe
def look_ia3(answer, case):
    inputs, before = fresh(case.tensors, learn=("x", "l")), fresh(case.tensors)
    none = {} if case.bias else {"bias": None}
    y = given(answer(**inputs, **none, feedforward=case.feedforward), torch.Tensor, "`ia3_forward`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, ("x", "l"))


@ia3_forward.solution
def before_or_after(x, weight, bias, l, feedforward):
    return F.linear(x * l, weight, bias) if feedforward else l * F.linear(x, weight, bias)


@ia3_forward.solution
def scaled_weights(x, weight, bias, l, feedforward):
    bias = torch.zeros(len(weight)) if bias is None else bias
    if feedforward:
        return x @ (weight * l).T + bias
    return x @ (l[:, None] * weight).T + l * bias


@ia3_forward.solution
def with_a_diagonal(x, weight, bias, l, feedforward):
    D = torch.diag(l)
    if feedforward:
        x = x @ D
    y = torch.einsum("...i,oi->...o", x, weight)
    if bias is not None:
        y = y + bias
    return y if feedforward else y @ D


ia3_forward.slip("The factors are added. What must every entry of `l` be, so that the layer is what it was?")(
    lambda x, weight, bias, l, feedforward: (
        F.linear(x + l, weight, bias) if feedforward else F.linear(x, weight, bias) + l
    ),
    "added-not-multiplied",
)
ia3_forward.slip("The bias is not scaled. What leaves a linear layer: `W x`, or more?")(
    lambda x, weight, bias, l, feedforward: (
        F.linear(x * l, weight, bias) if feedforward else l * F.linear(x, weight) + (0 if bias is None else bias)
    ),
    "bias-not-scaled",
)
ia3_forward.slip(
    "The factors are always put behind the layer, and the bias is added after them. How many entries does `l` have at a feed-forward "
    "layer, and is the bias a part of what leaves one?"
)(
    lambda x, weight, bias, l, feedforward: l * F.linear(x, weight) + (0 if bias is None else bias),
    "always-behind-and-bias-outside",
)
ia3_forward.slip("Right where there is a bias. `bias` may be None, as in a Llama: what is added then?")(
    lambda x, weight, bias, l, feedforward: (x * l) @ weight.T + bias if feedforward else (x @ weight.T + bias) * l,
    "needs-a-bias",
)
ia3_forward.slip("The bias is not scaled, and None cannot be added. What leaves a linear layer, and what if it has no bias?")(
    lambda x, weight, bias, l, feedforward: (x * l) @ weight.T + bias if feedforward else (x @ weight.T) * l + bias,
    "bias-not-scaled-and-needed",
)
ia3_forward.slip(
    "The factors are always put behind the layer. How many entries does `l` have at a feed-forward layer?"
)(
    lambda x, weight, bias, l, feedforward: l * F.linear(x, weight, bias),
    "always-behind",
)
ia3_forward.slip("The factors are always put before the layer. How many entries does `l` have elsewhere?")(
    lambda x, weight, bias, l, feedforward: F.linear(x * l, weight, bias),
    "always-before",
)
ia3_forward.slip("The two places are exchanged. At which kind of layer does `l` have `d_in` entries?")(
    lambda x, weight, bias, l, feedforward: (
        l * F.linear(x, weight, bias) if feedforward else F.linear(x * l, weight, bias)
    ),
    "places-exchanged",
)
ia3_forward.slip("Your factor is `1 + l`. Where does (IA)³ start: at zero, or at one?")(
    lambda x, weight, bias, l, feedforward: (
        F.linear(x * (1 + l), weight, bias) if feedforward else (1 + l) * F.linear(x, weight, bias)
    ),
    "one-plus-l",
)
ia3_forward.slip("The output is right, but no gradient arrives at `l`. What in your code cuts the graph?")(
    lambda x, weight, bias, l, feedforward: before_or_after(x, weight, bias, l.detach(), feedforward),
    "factors-detached",
)
ia3_forward.slip("The bias is missing. What does the layer give for `x = 0`?")(
    lambda x, weight, bias, l, feedforward: F.linear(x * l, weight) if feedforward else l * F.linear(x, weight),
    "no-bias",
)


ia3_merge = Exercise(
    "ia3-merge",
    lesson=LESSON,
    title="Merge it",
    signature="ia3_merge(weight, bias, l, feedforward)",
    dims={"weight": "d_out d_in", "bias": "d_out"},
    why="A factor is not added to a weight, so merging is another sum than LoRA's, and forgetting the bias is a real bug.",
    points=1,
    minutes=6,
    difficulty=2,
    hints=[
        "Write the forward pass down and take the factors inside the brackets.",
        "Factors behind the layer multiply rows of the weight, factors before it multiply columns. Which are the rows?",
        "What does a factor before the layer do to the bias, which is added afterwards?",
    ],
)


@ia3_merge.cases
def merge_cases(seed):
    cases = list(_layers(seed + 50))
    for case in cases:
        del case.tensors["x"]
    return cases


@ia3_merge.observe
def look_merge(answer, case):
    before, inputs = fresh(case.tensors), fresh(case.tensors)
    weight, bias = pair(answer(**inputs, feedforward=case.feedforward), "`ia3_merge`", "the weight and the bias")
    return {"weight": weight.detach(), "bias": bias.detach(), "changed in place": changed(before, inputs)}


@ia3_merge.solution
def rows_or_columns(weight, bias, l, feedforward):
    return (weight * l, bias) if feedforward else (weight * l[:, None], bias * l)


@ia3_merge.solution
def by_diagonal(weight, bias, l, feedforward):
    D = torch.diag(l)
    return (weight @ D, bias.clone()) if feedforward else (D @ weight, D @ bias)


@ia3_merge.solution
def by_asking(weight, bias, l, feedforward):
    d_in = weight.shape[1]
    shift = before_or_after(torch.zeros(d_in), weight, bias, l, feedforward)
    return (before_or_after(torch.eye(d_in), weight, bias, l, feedforward) - shift).T, shift


ia3_merge.slip("The bias is left as it was. Behind the layer, is it scaled along?")(
    lambda weight, bias, l, feedforward: (weight * l, bias) if feedforward else (weight * l[:, None], bias),
    "bias-left-alone",
)
ia3_merge.slip(
    "The bias is scaled before a feed-forward layer too. What do factors on `x` do to what is added after it?"
)(
    lambda weight, bias, l, feedforward: (weight * l, bias * l) if feedforward else (weight * l[:, None], bias * l),
    "bias-always-scaled",
)
ia3_merge.slip("Rows and columns are exchanged. Which index of the weight belongs to what leaves the layer?")(
    lambda weight, bias, l, feedforward: (weight * l[:, None], bias) if feedforward else (weight * l, bias * l),
    "rows-for-columns",
)
ia3_merge.slip("Always the columns are scaled. Where do the factors stand at a layer that is not feed-forward?")(
    lambda weight, bias, l, feedforward: (weight * l, bias) if feedforward else (weight * l, bias * l),
    "always-columns",
)
ia3_merge.slip("The factors are added to the weight, as an update would be. Is `l` an update?")(
    lambda weight, bias, l, feedforward: (weight + l, bias) if feedforward else (weight + l[:, None], bias + l),
    "added",
)
ia3_merge.slip("You divide: that undoes a merge. Which way were you asked to go?")(
    lambda weight, bias, l, feedforward: (weight / l, bias) if feedforward else (weight / l[:, None], bias / l),
    "unmerged",
)


@ia3_merge.slip("The result is right, and the frozen weight has been changed in place. What happens on a second call?")
def in_place(weight, bias, l, feedforward):
    if feedforward:
        return weight.mul_(l), bias
    return weight.mul_(l[:, None]), bias.mul_(l)


# ================================================================ norms

fold_norm = Exercise(
    "fold-norm",
    lesson=LESSON,
    title="What training a norm amounts to",
    signature="fold_norm(gain, shift, weight, bias)",
    dims={"gain": "d_in", "shift": "d_in", "weight": "d_out d_in", "bias": "d_out"},
    why="It shows that training a norm's weight and bias is both of the methods above at once, for every layer that reads it.",
    points=1,
    parts=[
        Part("the weight is", 0.5, ("weight",)),
        Part("the bias is", 0.5, ("bias",)),
    ],
    minutes=10,
    difficulty=2,
    hints=[
        "Write `weight @ (gain * n + shift) + bias` out and sort it: what is multiplied with `n`, and what is not?",
        "What is not multiplied with `n` is the same for every input: it is a bias, and the layer makes it of `shift`.",
        "`gain` multiplies the entries of what enters. Which index of the weight belongs to what enters?",
    ],
)


@fold_norm.cases
def norm_cases(seed):
    draw = torch.Generator().manual_seed(seed + 7)
    shapes = [(6, 4), (5, 5), (3, 8)]
    out = []
    for d_in, d_out in shapes:
        sizes = {"gain": (d_in,), "shift": (d_in,), "weight": (d_out, d_in), "bias": (d_out,)}
        tensors = {k: torch.randn(*s, generator=draw) for k, s in sizes.items()}
        out.append(Case(f"a norm of width {d_in} before a layer with `d_out = {d_out}`", tensors=tensors))
    return out


@fold_norm.observe
def look_fold(answer, case):
    before, inputs = fresh(case.tensors), fresh(case.tensors)
    weight, bias = pair(answer(**inputs), "`fold_norm`", "the weight and the bias")
    return {"weight": weight.detach(), "bias": bias.detach(), "changed in place": changed(before, inputs)}


@fold_norm.solution
def sorted_out(gain, shift, weight, bias):
    return weight * gain, weight @ shift + bias


@fold_norm.solution
def with_matrices(gain, shift, weight, bias):
    return weight @ torch.diag(gain), F.linear(shift, weight, bias)


@fold_norm.solution
def by_probing(gain, shift, weight, bias):
    def reads(n):
        return F.linear(gain * n + shift, weight, bias)

    nothing = reads(torch.zeros_like(gain))
    return (reads(torch.eye(len(gain))) - nothing).T, nothing


fold_norm.slip("The shift is missing. What does the layer give where the normalised vector is zero?")(
    lambda gain, shift, weight, bias: (weight * gain, bias.clone()), "shift-lost"
)
fold_norm.slip("The shift is scaled by the gain as well. In `gain * n + shift`, what does the gain multiply?")(
    lambda gain, shift, weight, bias: (weight * gain, (weight * gain) @ shift + bias), "gain-on-the-shift"
)
fold_norm.slip("The layer's own bias is gone. What did the layer give for `x = 0`?")(
    lambda gain, shift, weight, bias: (weight * gain, weight @ shift), "bias-lost"
)
fold_norm.slip("The shift is subtracted. How does a norm end: by adding its shift, or by taking it away?")(
    lambda gain, shift, weight, bias: (weight * gain, bias - weight @ shift), "shift-subtracted"
)
fold_norm.slip("The gain is missing from the weight. Which numbers of the layer see each entry of the norm?")(
    lambda gain, shift, weight, bias: (weight.clone(), weight @ shift + bias), "gain-lost"
)
fold_norm.slip("The shift is added to the bias as it stands. Does it not pass through the layer first?")(
    lambda gain, shift, weight, bias: (weight * gain, bias + shift), "shift-past-the-layer"
)
fold_norm.slip("The gain multiplies rows. It belongs to what enters the layer: which index of the weight is that?")(
    lambda gain, shift, weight, bias: (weight * gain[:, None], weight @ shift + bias), "gain-on-rows"
)
fold_norm.slip("The bias is scaled by the gain too. Does the layer's own bias pass through the norm?")(
    lambda gain, shift, weight, bias: (weight * gain, weight @ shift + bias * gain), "gain-on-the-bias"
)


# ================================================================ rows of the table

token_rows = Exercise(
    "token-rows",
    lesson=LESSON,
    title="Trainable tokens",
    signature="token_rows(ids, table, chosen, rows)",
    why="A new word costs one row, not the whole table, which is often the largest matrix of a model.",
    points=1,
    minutes=8,
    difficulty=2,
    hints=[
        "Look everything up in the frozen table first, then replace what has to be replaced.",
        "`ids == chosen[i]` tells where the i-th chosen token stands; it may stand in several places, or in none.",
        "The table must stay as it is, and a gradient must reach `rows`: build the result, or change a copy of the lookup.",
    ],
)


@token_rows.cases
def token_cases(seed):
    draw = torch.Generator().manual_seed(seed + 3)
    out = []
    for label, ids, chosen in [
        ("one chosen token, once in the text", [[4, 1, 7, 2]], [7]),
        ("two chosen tokens, one of them three times", [[5, 5, 0, 8], [3, 5, 8, 1]], [8, 5]),
        ("chosen tokens that are not in order", [[2, 9, 6, 1, 0], [6, 2, 2, 9, 4]], [9, 2, 6]),
        ("a text without any chosen token", [[1, 2, 3]], [7, 4]),
    ]:
        tensors = {"table": torch.randn(10, 4, generator=draw), "rows": torch.randn(len(chosen), 4, generator=draw)}
        out.append(Case(f"{label}: `chosen = {chosen}`", ids=torch.tensor(ids), chosen=chosen, tensors=tensors))
    return out


@token_rows.observe
def look_tokens(answer, case):
    inputs, before = fresh(case.tensors, learn=("rows",)), fresh(case.tensors)
    y = given(
        answer(case.ids.clone(), inputs["table"], list(case.chosen), inputs["rows"]), torch.Tensor, "`token_rows`"
    )
    seen = {"vectors": y.detach().clone(), "changed in place": changed(before, inputs)}
    if not torch.isin(case.ids, torch.tensor(case.chosen)).any():
        return seen  # nothing chosen: whether a gradient of zero arrives or none is the same
    return seen | gradients(y, inputs, ("rows",))


@token_rows.solution
def copy_and_replace(ids, table, chosen, rows):
    y = table[ids].clone()
    for token, row in zip(chosen, rows):
        y[ids == token] = row
    return y


@token_rows.solution
def by_where(ids, table, chosen, rows):
    y = F.embedding(ids, table)
    for i, token in enumerate(chosen):
        y = torch.where((ids == token).unsqueeze(-1), rows[i], y)
    return y


@token_rows.solution
def a_table_made_anew(ids, table, chosen, rows):
    return table.index_copy(0, torch.tensor(chosen), rows)[ids]


@token_rows.solution
def one_product(ids, table, chosen, rows):
    hit = (ids[..., None] == torch.tensor(chosen)).to(rows.dtype)
    return (1 - hit.sum(-1, keepdim=True)) * table[ids] + hit @ rows


@token_rows.slip("The rows are added to those of the table. Were they to be added, or to take their place?")
def added(ids, table, chosen, rows):
    y = table[ids].clone()
    for token, row in zip(chosen, rows):
        y[ids == token] += row
    return y


@token_rows.slip("The vectors are right, and the frozen table has been changed. Who else reads from it?")
def writes_into_the_table(ids, table, chosen, rows):
    table[torch.tensor(chosen)] = rows.detach()
    return by_where(ids, table, chosen, rows)


@token_rows.slip("You replaced positions in the text. Is a number in `chosen` a position, or a token?")
def places(ids, table, chosen, rows):
    y = table[ids].clone()
    for place, row in zip(chosen, rows):
        if place < ids.shape[1]:
            y[:, place] = row
    return y


@token_rows.slip(
    "`ids == chosen` compares a tensor with a list: that is one False for all of it, and nothing is replaced. Which of the chosen tokens "
    "does each row belong to?"
)
def compared_with_the_list(ids, table, chosen, rows):
    y = table[ids].clone()
    y[ids == chosen] = rows
    return y


@token_rows.slip("Only the first time a chosen token stands in a text is it replaced. And the second time?")
def first_time_only(ids, table, chosen, rows):
    y = table[ids].clone()
    for token, row in zip(chosen, rows):
        for line in range(len(ids)):
            where = (ids[line] == token).nonzero()
            if len(where):
                y[line, where[0, 0]] = row
    return y


@token_rows.slip("The rows go to the wrong tokens where `chosen` is not in order. Which row belongs to `chosen[0]`?")
def assumes_an_order(ids, table, chosen, rows):
    return by_where(ids, table, sorted(chosen), rows)


@token_rows.slip("The vectors are right and no gradient arrives at `rows`. What would training change?")
def rows_detached(ids, table, chosen, rows):
    return by_where(ids, table, chosen, rows.detach())


@token_rows.slip("Every chosen token gets the first row. What tells them apart?")
def one_row_for_all(ids, table, chosen, rows):
    return by_where(ids, table, chosen, rows[:1].expand_as(rows))


@token_rows.slip("This is the frozen table alone: `rows` never enters. Where do the chosen tokens stand?")
def table_alone(ids, table, chosen, rows):
    return table[ids].clone() + 0 * rows.sum()


# ================================================================ the ceiling

raters_ceiling = Exercise(
    "raters-ceiling",
    lesson=LESSON,
    title="How well do people agree?",
    signature="raters_ceiling(ratings)",
    why="Nobody can tell whether a score is good without knowing what a person would reach.",
    points=1,
    minutes=10,
    difficulty=2,
    hints=[
        "One sentence first: leave a rater out, take the mean of the others, and compare the signs.",
        "A rating of zero says neither; so does a mean of zero. Neither a hit nor a miss: half.",
        "Sentences have different numbers of raters. Which mean makes each sentence count the same?",
    ],
)


@raters_ceiling.cases
def ceiling_cases(seed):
    import random

    draw = random.Random(seed)
    cases = [
        Case("two raters who agree, and one who says neither", ratings=[[3, 2, 0]]),
        Case("two raters who agree, both with a one", ratings=[[1, 1]]),
        Case("a rater whose fellows cancel out", ratings=[[2, -2, 1, 1, -1]]),
        Case("one rater against three", ratings=[[1, 1, 1, -4]]),
        Case("two sentences with different numbers of raters", ratings=[[2, 1], [-1, -2, 3, -1, -3, -2, -1, 1]]),
    ]
    for i in range(3):
        lean = [draw.choice([-1, 1]) for _ in range(6)]
        many = [[max(-4, min(4, round(draw.gauss(2 * way, 2)))) for _ in range(draw.randint(4, 15))] for way in lean]
        cases.append(Case(f"six sentences drawn at random, number {i + 1}", ratings=many))
    return cases


@raters_ceiling.observe
def look_ceiling(answer, case):
    value = answer([list(r) for r in case.ratings])
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return {"ceiling": float(given(value, (int, float), "`raters_ceiling`"))}


def _agreement(rating, rest):
    product = rating * rest
    return 0.5 if product == 0 else float(product > 0)


def _ceiling(ratings, rest=lambda r, i: sum(r) - r[i], agree=_agreement):
    return statistics.fmean(statistics.fmean(agree(x, rest(r, i)) for i, x in enumerate(r)) for r in ratings)


@raters_ceiling.solution
def leave_one_out(ratings):
    shares = []
    for given_ in ratings:
        total, hits = sum(given_), 0
        for one in given_:
            others = total - one
            hits += 0.5 if one * others == 0 else one * others > 0
        shares.append(hits / len(given_))
    return sum(shares) / len(shares)


@raters_ceiling.solution
def with_signs(ratings):
    def sign(x):
        return (x > 0) - (x < 0)

    shares = [[(1 + sign(x) * sign(sum(r[:i] + r[i + 1 :]))) / 2 for i, x in enumerate(r)] for r in ratings]
    return statistics.fmean(statistics.fmean(s) for s in shares)


@raters_ceiling.solution
def with_tensors(ratings):
    shares = []
    for r in ratings:
        r = torch.tensor(r, dtype=torch.float64)
        shares.append(((r.sign() * (r.sum() - r).sign() + 1) / 2).mean())
    return torch.stack(shares).mean().item()


raters_ceiling.slip(
    "Each rater is compared with a mean that holds their own rating. Whom does a rater then agree with?"
)(lambda ratings: _ceiling(ratings, rest=lambda r, i: sum(r)), "own-rating-in-the-mean")
raters_ceiling.slip("A zero is counted as agreement. Did the rater who says neither agree?")(
    lambda ratings: _ceiling(ratings, agree=lambda a, b: float(a * b >= 0)), "zero-is-a-hit"
)
raters_ceiling.slip("A zero is counted as a miss. Did the rater who says neither disagree?")(
    lambda ratings: _ceiling(ratings, agree=lambda a, b: float(a * b > 0)), "zero-is-a-miss"
)


@raters_ceiling.slip("All raters of all sentences are thrown together. Which sentences then count the most?")
def pooled(ratings):
    return statistics.fmean(_agreement(x, sum(r) - x) for r in ratings for x in r)


OWN = (lambda r, i: sum(r), "Each rater is compared with a mean that holds their own rating")
ZERO = [
    (lambda a, b: float(a * b >= 0), "a zero is counted as agreement"),
    (lambda a, b: float(a * b > 0), "a zero is counted as a miss"),
]
for _agree, _told in ZERO:
    raters_ceiling.slip(f"Two things: {OWN[1][0].lower()}{OWN[1][1:]}, and {_told}. Whom does a rater agree with, and what does a zero say?")(
        lambda ratings, agree=_agree: _ceiling(ratings, rest=OWN[0], agree=agree), f"own-rating-and-{_told.split()[-1]}"
    )
    raters_ceiling.slip(f"Two things: all raters of all sentences are thrown together, and {_told}. Which sentences then count the most?")(
        lambda ratings, agree=_agree: statistics.fmean(agree(x, sum(r) - x) for r in ratings for x in r),
        f"pooled-and-{_told.split()[-1]}",
    )
raters_ceiling.slip(
    "Two things: all raters of all sentences are thrown together, and each is compared with a mean that holds their own rating. Which "
    "sentences then count the most, and whom does a rater agree with?"
)(lambda ratings: statistics.fmean(_agreement(x, sum(r)) for r in ratings for x in r), "pooled-and-own-rating")
raters_ceiling.slip("You compare the ratings themselves. Which part of a rating says whether the sentence was liked?")(
    lambda ratings: _ceiling(ratings, agree=lambda a, b: float(a == b)), "ratings-equal"
)


raters_ceiling.slip("You count the others' votes, not their mean. What if one person is very sure and two hardly?")(
    lambda ratings: _ceiling(ratings, rest=lambda r, i: sum((x > 0) - (x < 0) for x in r) - ((r[i] > 0) - (r[i] < 0))),
    "votes-not-mean",
)
raters_ceiling.slip("This is a percentage. The share was asked for: between which two numbers does it lie?")(
    lambda ratings: 100 * _ceiling(ratings), "in-percent"
)
raters_ceiling.slip("This is how often a rater disagrees. Which of the two is the ceiling?")(
    lambda ratings: 1 - _ceiling(ratings), "disagreement"
)


# ================================================================ on par

VERDICTS = ("better", "worse", "on par", "cannot tell")

on_par = Exercise(
    "on-par",
    lesson=LESSON,
    title="On par, or not enough seeds?",
    signature="on_par(ours, theirs, margin, t)",
    why='"No significant difference" is what every experiment finds that is small enough.',
    points=1,
    minutes=12,
    difficulty=3,
    hints=[
        "The same seed had the same sentences for both methods. So what varies is the difference, seed by seed.",
        "Half the interval is `t` times the standard error: the standard deviation of the differences over the root of their number.",
        "Draw the interval and the band from -margin to margin on paper. Which of the four verdicts belongs to which picture?",
    ],
)


# The known wrong half widths are these shares of the right one with three seeds, and one case lies between each two.
SHARES = (0.134, 0.19, 0.232, 0.263, 0.285, 0.372, 0.403, 0.456, 0.558, 0.577, 0.789, 0.816, 1.0, 1.225, 1.732)
BETWEEN = [(a * b) ** 0.5 for a, b in pairwise(SHARES)]


def _with_interval(draw, n, mean, error):
    """n differences with exactly this mean and standard error."""
    raw = [draw.gauss(0, 1) for _ in range(n)]
    size = statistics.stdev(raw) / n**0.5
    return [mean + error * (x - statistics.fmean(raw)) / size for x in raw]


@on_par.cases
def par_cases(seed):
    import random

    draw, cases = random.Random(seed), []
    t = {3: 4.303, 5: 2.776, 6: 2.571}
    plain = [
        (
            "differences that are small and sure",
            [0.80, 0.75, 0.78, 0.81, 0.77],
            [0.801, 0.752, 0.779, 0.808, 0.772],
            0.02,
        ),
        ("differences that are large and sure", [0.86, 0.85, 0.88, 0.87, 0.86], [0.80, 0.80, 0.81, 0.81, 0.79], 0.02),
        ("large differences the other way", [0.70, 0.72, 0.71], [0.80, 0.82, 0.80], 0.02),
        ("differences all over the place", [0.70, 0.84, 0.78], [0.80, 0.72, 0.77], 0.02),
        (
            "seeds that differ more than the methods",
            [0.60, 0.70, 0.80, 0.90, 0.75],
            [0.57, 0.67, 0.76, 0.87, 0.72],
            0.01,
        ),
        ("a difference that is sure, and smaller than the margin", [0.81, 0.76, 0.79], [0.80, 0.75, 0.78], 0.02),
        ("five differences, all above zero, of different size", [0.83, 0.81, 0.84, 0.82, 0.83], [0.80] * 5, 0.02),
        ("five differences, two of them below zero", [0.83, 0.79, 0.83, 0.82, 0.795], [0.80] * 5, 0.02),
        ("three differences, evenly spread", [0.80, 0.82, 0.84], [0.80] * 3, 0.01),
        ("a small mean difference that is not sure", [0.80, 0.79, 0.84], [0.81, 0.76, 0.85], 0.02),
        ("three differences of exactly the margin", [0.75, 1.0, 0.5], [0.5, 0.75, 0.25], 0.25),
        ("three differences of exactly minus the margin", [0.5, 0.75, 0.25], [0.75, 1.0, 0.5], 0.25),
        ("the same results three times, and no margin at all", [0.75, 1.0, 0.5], [0.75, 1.0, 0.5], 0.0),
    ]
    for label, ours, theirs, margin in plain:
        cases.append(Case(label, ours=ours, theirs=theirs, margin=margin, t=t[len(ours)]))
    for n, width in [*((3, 1 / between) for between in BETWEEN), (5, 1.05), (5, 0.95), (6, 1.05), (6, 0.96)]:
        base, holds = [draw.uniform(0.6, 0.8) for _ in range(n)], "holds" if width > 1 else "does not hold"
        what = f"{n} seeds, half an interval {width:.2f} times as wide as"
        for label, middle, half in (
            (f"{what} the mean difference: it {holds} zero", 0.04, 0.04 * width),
            (f"{what} the margin, around zero", 0.0, 0.02 * width),
        ):
            d = _with_interval(draw, n, middle, half / t[n])
            cases.append(Case(label, ours=[b + e for b, e in zip(base, d)], theirs=base, margin=0.02, t=t[n]))
    for _ in range(10):
        n = draw.choice([3, 5, 6])
        base = [draw.uniform(0.6, 0.9) for _ in range(n)]
        gap, noise = draw.choice([0, 0.02, -0.03]), draw.choice([0.002, 0.01, 0.02])
        ours = [round(b + gap + draw.gauss(0, noise), 3) for b in base]
        cases.append(
            Case(f"{n} seeds drawn at random", ours=ours, theirs=[round(b, 3) for b in base], margin=0.02, t=t[n])
        )
    return cases


@on_par.observe
def look_par(answer, case):
    verdict = answer(list(case.ours), list(case.theirs), case.margin, case.t)
    if verdict not in VERDICTS:
        raise Unexpected(f"`on_par` gave {verdict!r}; expected one of {', '.join(map(repr, VERDICTS))}.")
    return {"verdict": verdict}


def _verdict(ours, theirs, margin, t, spread=statistics.stdev, error=lambda s, n: s / n**0.5):
    d = [a - b for a, b in zip(ours, theirs)]
    middle, half = statistics.fmean(d), t * error(spread(d), len(d))
    low, high = middle - half, middle + half
    if -margin < low and high < margin:
        return "on par"
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"


@on_par.solution
def paired_interval(ours, theirs, margin, t):
    differences = [a - b for a, b in zip(ours, theirs)]
    middle = sum(differences) / len(differences)
    half = t * statistics.stdev(differences) / len(differences) ** 0.5
    low, high = middle - half, middle + half
    if low > -margin and high < margin:
        return "on par"
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "cannot tell"


@on_par.solution
def with_tensors_and_distance(ours, theirs, margin, t):
    d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    half = t * d.std() / len(d) ** 0.5
    if d.mean().abs() + half < margin:
        return "on par"
    if d.mean().abs() > half:
        return "better" if d.mean() > 0 else "worse"
    return "cannot tell"


@on_par.solution
def with_variance(ours, theirs, margin, t):
    d = [a - b for a, b in zip(ours, theirs, strict=True)]
    error = (statistics.variance(d) / len(d)) ** 0.5
    low, high = statistics.mean(d) - t * error, statistics.mean(d) + t * error
    verdicts = {"on par": max(-low, high) < margin, "better": low > 0, "worse": high < 0, "cannot tell": True}
    return next(verdict for verdict, holds in verdicts.items() if holds)


@on_par.slip(
    "An interval that holds zero is called on par, however wide it is. What would you say after two noisy seeds?"
)
def absence_of_evidence(ours, theirs, margin, t):
    verdict = _verdict(ours, theirs, 0, t)
    return "on par" if verdict == "cannot tell" else verdict


@on_par.slip("Each method gets an interval of its own. Both saw the same sentences with a seed: what varies, then?")
def not_paired(ours, theirs, margin, t):
    n = len(ours)
    half = t * ((statistics.variance(ours) + statistics.variance(theirs)) / n) ** 0.5
    middle = statistics.fmean(ours) - statistics.fmean(theirs)
    if abs(middle) + half < margin:
        return "on par"
    return "better" if middle > half else "worse" if middle < -half else "cannot tell"


@on_par.slip("An interval that ends exactly at the margin is on par for you. Does it lie *strictly* between the two?")
def margin_included(ours, theirs, margin, t):
    return _verdict(ours, theirs, math.nextafter(margin, math.inf), t)


@on_par.slip("An interval that ends exactly at zero decides for you. Is *all* of it above zero, or below?")
def zero_included(ours, theirs, margin, t):
    d = [a - b for a, b in zip(ours, theirs)]
    middle, half = statistics.fmean(d), t * statistics.stdev(d) / len(d) ** 0.5
    if abs(middle) + half < margin:
        return "on par"
    return "better" if middle >= half else "worse" if middle <= -half else "cannot tell"


# What may be wrong with the half width: what is said of it, what is asked, and how it is computed. Also two at a time.
SPREADS = {
    "population-deviation": ("the standard deviation is that of a whole population, over n", statistics.pstdev),
}
ERRORS = {
    "spread-not-error": (
        "you use the standard deviation of single differences. What happens to the mean's interval as seeds are added",
        lambda s, n: s,
    ),
    "no-root": ("you divide by the number of seeds. By what does the error of a mean shrink", lambda s, n: s / n),
    "root-of-one-less": (
        "you divide by the root of n - 1. `stdev` has its n - 1 already: what does the error of a mean shrink by",
        lambda s, n: s / (n - 1) ** 0.5,
    ),
}
WIDTHS = {
    "one-standard-error": ("your interval takes no notice of `t`. How much wider must it be with three seeds", 1),
    "normal-not-t": (
        "your factor is 1.96 or 2, which is for a standard deviation that is known. What is it for one estimated from three seeds",
        1.96,
    ),
}


def half_width(told, name, spread=statistics.stdev, error=lambda s, n: s / n**0.5, factor=None):
    on_par.slip(told)(
        lambda ours, theirs, margin, t: _verdict(ours, theirs, margin, factor or t, spread, error),
        name,
    )


def capital(text):
    return text[0].upper() + text[1:]


for _name, (_told, _spread) in SPREADS.items():
    half_width(f"{capital(_told)}. What do you divide by when only a few values are there?", _name, spread=_spread)
for _name, (_told, _error) in ERRORS.items():
    half_width(f"{capital(_told)}?", _name, error=_error)
for _name, (_told, _factor) in WIDTHS.items():
    half_width(f"{capital(_told)}?", _name, factor=_factor)
    for _other, (_more, _error) in ERRORS.items():
        half_width(f"Two things: {_told}? And {_more}?", f"{_name}-and-{_other}", error=_error, factor=_factor)
    for _other, (_more, _spread) in SPREADS.items():
        half_width(f"Two things: {_more}. And {_told}?", f"{_name}-and-{_other}", spread=_spread, factor=_factor)


@on_par.slip("Only the mean difference is compared with the margin. How sure is it?")
def means_only(ours, theirs, margin, t):
    middle = statistics.fmean(ours) - statistics.fmean(theirs)
    return "on par" if abs(middle) < margin else "better" if middle > 0 else "worse"


on_par.slip("Better and worse are exchanged. Whose result is `ours`?")(
    lambda ours, theirs, margin, t: _verdict(theirs, ours, margin, t), "the-wrong-way-round"
)


@on_par.slip("A difference that is sure is called better or worse, however small. What is the margin for?")
def margin_comes_last(ours, theirs, margin, t):
    verdict = _verdict(ours, theirs, 0, t)
    return _verdict(ours, theirs, margin, t) if verdict == "cannot tell" else verdict
