"""Lesson 01, what fine-tuning costs: bytes, parameters and multiplications, counted before they are measured."""

from ..exercise import Case, Exercise, NotAttempted, Part, Question, Unexpected
from ..observing import given

LESSON = "01-what-fine-tuning-costs"

# ================================================================ predict

frozen_share = Question(
    "frozen-share",
    lesson=LESSON,
    title="What freezing saves",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "You freeze every weight of a network and train a small addition in each layer. "
        "Which share of the multiplications of a training step goes away?"
    ),
    options={
        "a": (
            "nearly all of them",
            (
                "Nearly all *parameters* are frozen, but data still runs through every one of them. "
                "What does the forward pass need the frozen weights for?"
            ),
        ),
        "b": (
            "about half",
            (
                "The backward pass is two thirds of the work, and it does not vanish: "
                "how does the gradient reach the addition in the first layer?"
            ),
        ),
        "c": (
            "about a third",
            (
                "Of three products per layer, the output, the gradient of the input and the gradient of the weight, "
                "only the last goes away."
            ),
        ),
        "d": (
            "none",
            (
                "One of the products of the backward pass was there only to change the weight. "
                "Which, and does a frozen weight need it?"
            ),
        ),
    },
    right="c",
)

memory_ratio = Question(
    "memory-ratio",
    lesson=LESSON,
    title="What freezing saves, in bytes",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "A model of 560 million parameters is fine-tuned with AdamW, then the same model with LoRA: about 300 times fewer "
        "parameters are trainable. One step sees 8 texts of 512 tokens. How much less memory does LoRA's step hold?"
    ),
    options={
        "a": (
            "about 300 times less",
            "That would need everything in memory to belong to trained parameters. What does a frozen weight take up?",
        ),
        "b": (
            "about 30 times less",
            (
                "The weights alone are a quarter of weights, gradients and AdamW's two states together, and they stay. "
                "So how large can the factor be at the very most?"
            ),
        ),
        "c": (
            "about 2 times less",
            "The weights stay, and most of what the forward pass keeps for the backward pass stays with them.",
        ),
        "d": (
            "no less: all weights are still there",
            "The weights are still there. Are the gradients, and what AdamW keeps for each of them?",
        ),
    },
    right="c",
)

faster_forward = Question(
    "faster-forward",
    lesson=LESSON,
    title="Which part gets shorter",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "A training step has three parts: forward, backward, and the optimizer's update. LoRA trains 300 times fewer parameters "
        "than full fine-tuning. Which parts take clearly less time?"
    ),
    options={
        "a": (
            "all three",
            "Which parameters does the forward pass multiply with: the trainable ones alone, or all of them?",
        ),
        "b": (
            "backward and the update",
            ("Backward is spared the gradients of the frozen weights, the update nearly everything. Forward multiplies with every "
            "weight as before, and with A and B on top."),
        ),
        "c": (
            "the update alone",
            "The update, yes. And of the two products that backward makes for each linear layer: does it need both for a frozen one?",
        ),
        "d": (
            "forward alone: there is less to multiply",
            "There is more: A and B stand beside the frozen weights, not in their place. Where are gradients of weights computed?",
        ),
    },
    right="b",
)

# ================================================================ bytes

training_bytes = Exercise(
    "training-bytes",
    lesson=LESSON,
    title="The byte budget",
    signature="training_bytes(n_total, n_trainable, optimizer)",
    why="It says what freezing can save, and what it can't, before you rent anything.",
    points=2,
    parts=[
        Part("the bytes of weights and gradients are", 1, ("bytes of weights", "bytes of gradients")),
        Part("those of the optimizer are", 1, ("bytes of optimizer",)),
    ],
    minutes=8,
    difficulty=1,
    hints=[
        "float32 is four bytes. Ask of each of the three: is there one number for every parameter, or only for the trained ones?",
        "A frozen weight still has to be there for the forward pass.",
        "SGD remembers nothing, SGD with momentum one number per trained parameter, AdamW two.",
    ],
)


@training_bytes.cases
def byte_cases(seed):
    trained = 73_728 + 8 * seed
    return [
        Case(f"`training_bytes({n:,}, {k:,}, {o!r})`", inputs=(n, k, o))
        for n, k, o in (
            (22_713_216, 22_713_216, "adamw"),
            (22_713_216, trained, "adamw"),
            (134_515_008, trained, "momentum"),
            (1000 + seed, 10, "sgd"),
        )
    ]


@training_bytes.observe
def look_bytes(answer, case):
    budget = given(answer(*case.inputs), dict, "`training_bytes`")
    keys = ["weights", "gradients", "optimizer"]
    if missing := [k for k in keys if k not in budget]:
        raise Unexpected(f"Your dict has no {' and no '.join(map(repr, missing))}; it should have {keys}.")
    return {f"bytes of {k}": int(budget[k]) if budget[k] == int(budget[k]) else float(budget[k]) for k in keys}


@training_bytes.solution
def with_a_table(n_total, n_trainable, optimizer):
    states = {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer]
    return {"weights": 4 * n_total, "gradients": 4 * n_trainable, "optimizer": 4 * states * n_trainable}


@training_bytes.solution
def with_branches(n_total, n_trainable, optimizer):
    if optimizer == "adamw":
        per = 8
    elif optimizer == "momentum":
        per = 4
    else:
        per = 0
    return {"optimizer": per * n_trainable, "gradients": n_trainable * 4, "weights": n_total * 4}


@training_bytes.solution
def in_bits(n_total, n_trainable, optimizer):
    numbers = [n_total, n_trainable, n_trainable * ["sgd", "momentum", "adamw"].index(optimizer)]
    return {k: n * 32 / 8 for k, n in zip(("weights", "gradients", "optimizer"), numbers, strict=True)}


def _bytes(message, name, weights=None, gradients=None, optimizer=None):
    """A slip of the byte budget: the parts given replace the right ones; each takes (total, trained, states)."""

    def answer(n_total, n_trainable, optimizer_name):
        states = {"sgd": 0, "momentum": 1, "adamw": 2}[optimizer_name]
        args = n_total, n_trainable, states
        return {
            "weights": (weights or (lambda n, k, s: 4 * n))(*args),
            "gradients": (gradients or (lambda n, k, s: 4 * k))(*args),
            "optimizer": (optimizer or (lambda n, k, s: 4 * s * k))(*args),
        }

    training_bytes.slip(message)(answer, name)


_bytes(
    "Every parameter has a gradient in your count. Does a frozen weight need one?",
    "gradients-for-all",
    gradients=lambda n, k, s: 4 * n,
)
_bytes(
    "The optimizer keeps its states for every parameter in your count. Which parameters is it given?",
    "states-for-all",
    optimizer=lambda n, k, s: 4 * s * n,
)
_bytes(
    "Gradients and optimizer states are counted for every parameter, as if nothing were frozen. Where does `n_trainable` enter?",
    "nothing-frozen",
    gradients=lambda n, k, s: 4 * n,
    optimizer=lambda n, k, s: 4 * s * n,
)
_bytes(
    "Only the trained weights are counted. What does the forward pass multiply with in a frozen layer?",
    "trained-weights-only",
    weights=lambda n, k, s: 4 * k,
)
_bytes(
    "You count parameters, gradients and states, not bytes. How many bytes does one float32 take?",
    "numbers-not-bytes",
    weights=lambda n, k, s: n,
    gradients=lambda n, k, s: k,
    optimizer=lambda n, k, s: s * k,
)
_bytes(
    "You count two bytes a number. That is float16 or bfloat16; what is float32?",
    "two-bytes",
    weights=lambda n, k, s: 2 * n,
    gradients=lambda n, k, s: 2 * k,
    optimizer=lambda n, k, s: 2 * s * k,
)
_bytes(
    "AdamW keeps one number per trained parameter in your count. It follows the mean of the gradient; what else?",
    "one-moment",
    optimizer=lambda n, k, s: 4 * min(s, 1) * k,
)
_bytes(
    "Every optimizer has AdamW's two states in your count. What does plain SGD remember from the last step?",
    "two-states-for-every-optimizer",
    optimizer=lambda n, k, s: 8 * k,
)

for part in ("weights", "gradients", "optimizer"):
    _bytes(
        f"Two of the three are in bytes; {part!r} is not. How many bytes does one float32 take?",
        f"{part}-not-in-bytes",
        **{part: {"weights": lambda n, k, s: n, "gradients": lambda n, k, s: k, "optimizer": lambda n, k, s: s * k}[part]},
    )

# ================================================================ what the forward pass keeps

kept_numbers = Exercise(
    "kept-numbers",
    lesson=LESSON,
    title="What one block keeps for the backward pass",
    signature="kept_numbers(tokens, d, ff, trained)",
    why="The part of the memory that freezing hardly touches, and the first to overflow with long texts.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Some of it does not depend on `trained` at all: attention, the two norms and the activation function keep theirs.",
        "Then go through the six linear layers. A trained one needs its input; how wide is that input?",
        "A tensor that is kept already costs nothing more: three of the six read the same input, and one reads what attention gave.",
    ],
)

READS = {
    "query": "x",
    "key": "x",
    "value": "x",
    "attention.output": "context",
    "intermediate": "middle",
    "output": "act",
}


def kept(
    tokens, d, ff, trained, always=("q", "k", "v", "context", "sum1", "sum2", "pre"), reads=READS, wide=("pre", "act")
):
    """Numbers kept by one block: `always` and what the trained layers read, each tensor once."""
    tensors = {*always, *(reads[name] for name in trained)}
    return tokens * sum(ff if t in wide else d for t in tensors)


@kept_numbers.cases
def kept_cases(seed):
    every = list(READS)
    return [
        Case(f"`tokens = {t}, d = {d}, ff = {ff}`, with {', '.join(on) or 'nothing'} trained", inputs=(t, d, ff), on=on)
        for t, d, ff, on in (
            (256, 384, 1000, every),  # ff is no multiple of d, so that it shows which of the two is missing
            (256, 384, 1000, ["query", "value"]),
            (10 + seed, 7, 23, ["attention.output"]),
            (10, 7, 23, ["intermediate", "key"]),
            (3, 16, 40, ["output"]),
            (5, 6, 25, []),
        )
    ]


@kept_numbers.observe
def look_kept(answer, case):
    n = given(answer(*case.inputs, set(case.on)), (int, float), "`kept_numbers`")
    return {"the number": int(n) if n == int(n) else float(n)}


@kept_numbers.evidence
def kept_per_token(cases, seen, expected):
    """The difference in units of d and ff, read off the first case that is wrong."""
    for case, a, b in zip(cases, seen, expected, strict=True):
        if "error" not in a and a["the number"] != b["the number"]:
            (t, d, ff), gap = case.inputs, a["the number"] - b["the number"]
            times = {u: abs(gap) / (t * w) for u, w in (("d", d), ("ff", ff))}
            units = next((f"{n:.0f} x `{u}`" for u, n in times.items() if n == int(n) < 9), "")
            return f"For each token that is {units} too {'many' if gap > 0 else 'few'}." if units else None
    return None


@kept_numbers.solution
def by_names(tokens, d, ff, trained):
    return kept(tokens, d, ff, trained)


@kept_numbers.solution
def by_adding(tokens, d, ff, trained):
    n = 6 * d + ff  # attention four, the norms two, the activation function one
    if trained & {"query", "key", "value"}:
        n += d
    if "intermediate" in trained:
        n += d
    if "output" in trained:
        n += ff
    return tokens * n


@kept_numbers.solution
def in_one_expression(tokens, d, ff, trained):
    shared = not trained.isdisjoint(("query", "key", "value"))
    return tokens * (d * (6 + shared + ("intermediate" in trained)) + ff * (1 + ("output" in trained)))


def _kept(message, name, **changed):
    kept_numbers.slip(message)(lambda tokens, d, ff, trained: kept(tokens, d, ff, trained, **changed), name)


ALWAYS = ("q", "k", "v", "context", "sum1", "sum2", "pre")

kept_numbers.slip(
    "The input of the block is kept once for each of query, key and value that is trained. "
    "All three read the same tensor: how often does it have to be kept?"
)(
    lambda tokens, d, ff, trained: (
        kept(tokens, d, ff, trained) + tokens * d * max(0, len(trained & {"query", "key", "value"}) - 1)
    ),
    "input-three-times",
)
kept_numbers.slip(
    "Each trained layer adds a tensor of its own in your count. Some of the six read the same tensor, "
    "and one reads a tensor that is kept anyway: which?"
)(
    lambda tokens, d, ff, trained: kept(tokens, d, ff, ())
    + tokens * sum(ff if name == "output" else d for name in trained),
    "each-layer-its-own",
)
_kept(
    "The input of the block is kept in your count even when nothing that reads it is trained. "
    "Attention asks for q, k and v; who asks for the block's input then?",
    "block-input-always",
    always=(*ALWAYS, "x"),
)
_kept(
    "The input of `attention.output` is counted on top. It is what attention gave: is that not kept already?",
    "context-twice",
    reads=READS | {"attention.output": "context again"},
)
_kept(
    "The activation function keeps nothing in your count. Its slope differs from place to place: "
    "what does the backward pass need to know it?",
    "forgets-the-activation-function",
    always=[t for t in ALWAYS if t != "pre"],
)
_kept(
    "The norms keep nothing in your count. Look at their line in the table: how many of them are in a block?",
    "forgets-the-norms",
    always=[t for t in ALWAYS if t[:3] != "sum"],
)
_kept(
    "A tensor as wide as d is missing, whatever is trained. How many norms has a block, and how many tensors stand in attention's line?",
    "one-tensor-short",
    always=[t for t in ALWAYS if t != "sum2"],
)
_kept(
    "Attention keeps nothing in your count, perhaps because it has no weights of its own. It is a product of q, k and v: "
    "what does the gradient of a product need?",
    "forgets-attention",
    always=("sum1", "sum2", "pre"),
)
_kept(
    "Attention keeps q, k and v in your count. The table has a fourth tensor in that line: which?",
    "forgets-what-attention-gave",
    always=[t for t in ALWAYS if t != "context"],
)
kept_numbers.slip(
    "Whatever is trained, you count what full fine-tuning keeps. Which inputs can a block let go of when a layer is frozen?"
)(lambda tokens, d, ff, trained: kept(tokens, d, ff, READS), "all-layers-always")
kept_numbers.slip(
    "Only the inputs of trained layers are kept in your count. Attention, norms and the activation function have a "
    "backward pass too, trained layers or not: what do they need for it?"
)(lambda tokens, d, ff, trained: kept(tokens, d, ff, trained, always=()), "trained-layers-only")
_kept(
    "You keep what the trained layers *give*. The gradient of a weight is made of what went *in*: how wide is that for `intermediate` and `output`?",
    "outputs-for-inputs",
    reads={
        "query": "q",
        "key": "k",
        "value": "v",
        "attention.output": "gave1",
        "intermediate": "pre",
        "output": "gave2",
    },
)
_kept(
    "The input of `output` is d wide in your count. It comes out of the widened middle of the block: how wide is it?",
    "narrow-middle",
    wide=("pre",),
)
kept_numbers.slip("This is the count for one token. Does each token of the batch leave its own tensors behind?")(
    lambda tokens, d, ff, trained: kept(1, d, ff, trained), "one-token-only"
)
kept_numbers.slip("These are bytes. How many *numbers* are kept?")(
    lambda tokens, d, ff, trained: 4 * kept(tokens, d, ff, trained), "bytes-not-numbers"
)

long_texts = Question(
    "long-texts",
    lesson=LESSON,
    title="Longer and longer texts",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "LoRA now sits on *every* linear layer, and the texts get longer and longer. How does the memory of a step compare "
        "with that of full fine-tuning?"
    ),
    options={
        "a": (
            "LoRA holds less by the same factor at any length",
            "Weights, gradients and states do not grow with the text; activations do. Which of the two rules in the end?",
        ),
        "b": (
            "the two come ever closer to each other",
            "Activations rule in the end, and each adapted layer keeps the input that its `A` needs: the same tensors again.",
        ),
        "c": (
            "LoRA's advantage grows",
            (
                "What LoRA saves for certain, gradients and states, does not depend on the text. "
                "What share of a growing total is it?"
            ),
        ),
        "d": (
            "LoRA holds less, since frozen layers keep nothing",
            "A frozen layer keeps nothing, but the `A` beside it does: its gradient is made of what?",
        ),
    },
    right="b",
)

# ================================================================ counts

count_lora = Exercise(
    "count-lora",
    lesson=LESSON,
    title="LoRA's parameters",
    signature="count_lora(d_in, d_out, r)",
    why="Every published parameter count of LoRA is this, times the number of layers.",
    points=1,
    minutes=4,
    difficulty=1,
    hints=["Two matrices: A goes from d_in to r, B from r to d_out.", "Neither has a bias."],
)


@count_lora.cases
def lora_counts(seed):
    return [
        Case(f"`count_lora({i}, {o}, {r})`", inputs=(i, o, r))
        for i, o, r in ((384, 384, 8), (576, 192, 4), (1024 + seed, 4096, 32), (7, 5, 1))
    ]


def look_number(answer, case):
    n = given(answer(*case.inputs), (int, float), "your function")
    return {"the number": int(n) if n == int(n) else float(n)}


count_lora.observe(look_number)


@count_lora.solution
def rank_times_both(d_in, d_out, r):
    return r * (d_in + d_out)


@count_lora.solution
def matrix_by_matrix(d_in, d_out, r):
    A, B = r * d_in, d_out * r
    return A + B


@count_lora.solution
def by_building_it(d_in, d_out, r):
    from torch import empty

    return empty(r, d_in, device="meta").numel() + empty(d_out, r, device="meta").numel()


count_lora.slip("That is the whole update B A, written out. How many numbers are needed to *store* B and A?")(
    lambda d_in, d_out, r: d_in * d_out, "the-full-matrix"
)
count_lora.slip("The sizes are multiplied all together. Is the number of entries of two matrices a product or a sum?")(
    lambda d_in, d_out, r: r * d_in * d_out, "one-product-of-all"
)
count_lora.slip("Only A is counted. What are the shapes of the two matrices?")(
    lambda d_in, d_out, r: r * d_in, "only-a"
)
count_lora.slip("Only B is counted. What are the shapes of the two matrices?")(
    lambda d_in, d_out, r: r * d_out, "only-b"
)
count_lora.slip("Right for a square layer only. Which of the two matrices never sees d_in?")(
    lambda d_in, d_out, r: 2 * r * d_in, "assumes-a-square-layer"
)
count_lora.slip("You count biases too. Where would a bias stand in B A x?")(
    lambda d_in, d_out, r: r * (d_in + d_out) + r + d_out, "with-biases"
)
count_lora.slip("The frozen weight is counted along. Is it trained?")(
    lambda d_in, d_out, r: d_in * d_out + r * (d_in + d_out), "with-the-frozen-weight"
)

count_bottleneck = Exercise(
    "count-bottleneck",
    lesson=LESSON,
    title="A bottleneck adapter's parameters",
    signature="count_bottleneck(d, m)",
    why="Bottleneck adapters are the other large family; their count has a part that LoRA's has not.",
    points=1,
    minutes=4,
    difficulty=1,
    hints=[
        "Down from d to m, an activation function, up from m to d: two ordinary linear layers.",
        "A linear layer has a bias.",
    ],
)


@count_bottleneck.cases
def bottleneck_counts(seed):
    return [
        Case(f"`count_bottleneck({d}, {m})`", inputs=(d, m))
        for d, m in ((1024, 128), (384, 24), (60 + seed, 7), (5, 1))
    ]


count_bottleneck.observe(look_number)


@count_bottleneck.solution
def formula(d, m):
    return 2 * d * m + d + m


@count_bottleneck.solution
def layer_by_layer(d, m):
    down, up = d * m + m, (m + 1) * d
    return down + up


@count_bottleneck.solution
def by_building_the_layers(d, m):
    from torch import nn

    layers = nn.Sequential(nn.Linear(d, m, device="meta"), nn.ReLU(), nn.Linear(m, d, device="meta"))
    return sum(p.numel() for p in layers.parameters())


count_bottleneck.slip("The biases are missing. How many has a linear layer from d to m?")(
    lambda d, m: 2 * d * m, "no-biases"
)
count_bottleneck.slip("Only the way down is counted. What brings the m entries back to d?")(
    lambda d, m: d * m + m, "only-down"
)
count_bottleneck.slip("Only the way up is counted. What brings the d entries down to m?")(lambda d, m: d * m + d, "only-up")
count_bottleneck.slip("Both biases have d entries in your count. How many outputs has the layer that goes down?")(
    lambda d, m: 2 * d * m + 2 * d, "both-biases-wide"
)
count_bottleneck.slip("Both biases have m entries in your count. How many outputs has the layer that goes up?")(
    lambda d, m: 2 * d * m + 2 * m, "both-biases-narrow"
)
count_bottleneck.slip(
    "One of the two biases is missing: the one of the layer that goes up. Has `nn.Linear(m, d)` one?"
)(lambda d, m: 2 * d * m + m, "no-bias-up")
count_bottleneck.slip(
    "One of the two biases is missing: the one of the layer that goes down. Has `nn.Linear(d, m)` one?"
)(lambda d, m: 2 * d * m + d, "no-bias-down")
count_bottleneck.slip("That is one layer from d to d. What is narrow about a bottleneck?")(
    lambda d, m: d * d + d, "no-bottleneck"
)

# ================================================================ multiplications

multiplications = Exercise(
    "multiplications",
    lesson=LESSON,
    title="Multiplications of one step",
    signature="multiplications(tokens, d_in, d_out, trained)",
    why="A third of the work goes when a weight is frozen, and only a third: this is why.",
    points=2,
    parts=[
        Part("a trained layer is", 1, cases=lambda case: case.inputs[3]),
        Part("a frozen one is", 1, cases=lambda case: not case.inputs[3]),
    ],
    minutes=8,
    difficulty=2,
    hints=[
        "One linear layer, forward and backward. The forward pass is one matrix product: how many multiplications?",
        "The backward pass has two products: the gradient for the layer's input, and the gradient for its weight.",
        "Which of the two does a frozen layer in the middle of a network still need, so that what comes before it can learn?",
    ],
)


@multiplications.cases
def multiplication_cases(seed):
    return [
        Case(f"`multiplications({t}, {i}, {o}, {f})`", inputs=(t, i, o, f))
        for t, i, o, f in ((1024, 384, 1536, True), (1024, 384, 1536, False), (7 + seed, 3, 5, True), (1, 2, 9, False))
    ]


multiplications.observe(look_number)


@multiplications.solution
def three_or_two(tokens, d_in, d_out, trained):
    return tokens * d_in * d_out * (3 if trained else 2)


@multiplications.solution
def product_by_product(tokens, d_in, d_out, trained):
    forward = tokens * d_in * d_out
    for_the_input = tokens * d_out * d_in
    for_the_weight = d_out * tokens * d_in if trained else 0
    return forward + for_the_input + for_the_weight


@multiplications.solution
def from_shapes(tokens, d_in, d_out, trained):
    from math import prod

    products = [(tokens, d_in, d_out), (tokens, d_out, d_in)] + [(d_out, tokens, d_in)] * bool(trained)
    return sum(map(prod, products))


def _times(message, name, trained, frozen):
    multiplications.slip(message)(
        lambda tokens, d_in, d_out, on: tokens * d_in * d_out * (trained if on else frozen), name
    )


_times(
    "You count multiplications and additions: 6 parts and 4. That is the usual count of operations; which half of it are multiplications?",
    "counts-additions-too",
    6,
    4,
)
_times(
    "A frozen layer has no backward pass at all in your count. How would the gradient reach the layers before it?",
    "frozen-has-no-backward",
    3,
    1,
)
_times("Freezing saves nothing in your count. Which of the three products is there only to change the weight?", "freezing-saves-nothing", 3, 3)  # fmt: skip
_times("This is the forward pass alone. What does one training step do after it?", "forward-only", 1, 1)
_times("A frozen layer costs nothing in your count. Does data still run through it?", "frozen-is-free", 3, 0)
_times(
    "One of the three products is missing for both. The output, the gradient of the input, the gradient of the weight: which?",
    "one-product-short",
    2,
    1,
)
multiplications.slip("The number of tokens plays no part. Does each token go through the layer?")(
    lambda tokens, d_in, d_out, on: d_in * d_out * (3 if on else 2), "one-token-only"
)
multiplications.slip(
    "The two widths are added in your count. Each of the outputs is made from *all* inputs: how many pairs are there?"
)(lambda tokens, d_in, d_out, on: tokens * (d_in + d_out) * (3 if on else 2), "adds-the-widths")
multiplications.slip(
    "The gradient of the weight is counted for one token. It is a sum over all of them: how many products go into each entry?"
)(lambda tokens, d_in, d_out, on: d_in * d_out * (2 * tokens + bool(on)), "weight-gradient-for-one-token")
multiplications.slip(
    "You add one multiplication for each weight, as if the optimizer's update belonged to the layer's products. The task asks for "
    "forward and backward alone: which products of matrices are these?"
)(lambda tokens, d_in, d_out, on: d_in * d_out * (tokens * (3 if on else 2) + bool(on)), "counts-the-update-too")
multiplications.slip("The two cases are the wrong way round. Which of them needs the gradient of the weight?")(
    lambda tokens, d_in, d_out, on: tokens * d_in * d_out * (2 if on else 3), "trained-and-frozen-swapped"
)

smaller_batch = Question(
    "smaller-batch",
    lesson=LESSON,
    title="Half the batch",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question=(
        "A step with LoRA takes 40 % less time than a step of full fine-tuning. Now you halve the batch, and nothing else. "
        "The share of time that LoRA saves ..."
    ),
    options={
        "a": (
            "stays at 40 %",
            "Half the tokens, half the multiplications. Does AdamW's own step get shorter too?",
        ),
        "b": (
            "grows",
            "AdamW visits every trained parameter once a step, however few tokens there were: its share grows, and LoRA saves nearly all of it.",
        ),
        "c": (
            "falls to 20 %",
            "Both steps have half as many multiplications, so their ratio stays. What else is there in a step, and who pays for it?",
        ),
        "d": (
            "falls to a third, what is saved in multiplications",
            "A third is what is left when the multiplications are all there is. Do they weigh more in a small batch or in a large one?",
        ),
    },
    right="b",
)

# ================================================================ the article's settings

find_settings = Exercise(
    "find-settings",
    lesson=LESSON,
    title="Find the settings behind the numbers",
    signature='settings = {"2 million": r, "4 million": r, "7 million": m, "26 million": m}',
    why="A published count means nothing until you know what was counted.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "24 layers, 1024 wide. LoRA sits on `query` and `value` of each; one bottleneck adapter sits in each layer.",
        "The classification head is trained too, and it is not small: 1024 x 1024 + 1024, and then three classes.",
        "The count is linear in r and in m: take the head away from the published number, divide by what one unit costs.",
    ],
)

D, LAYERS, CLASSES = 1024, 24, 3  # XLM-RoBERTa-large, with the head that transformers puts on it
HEAD = D * D + D + (D + 1) * CLASSES
GOALS = {"2 million": 2, "4 million": 4, "7 million": 7, "26 million": 26}


def lora_total(r, head=HEAD, per_layer=2):
    return LAYERS * per_layer * r * 2 * D + head


def adapter_total(m, head=HEAD, per_layer=1):
    return LAYERS * per_layer * (2 * D * m + D + m) + head


READINGS = {  # had the count been made like this, the answer would fit: what the slips are told apart by
    "the head is left out": (lambda r: lora_total(r, head=0), lambda m: adapter_total(m, head=0)),
    "LoRA sits on one matrix a layer, or only A is counted": (lambda r: lora_total(r, per_layer=1), adapter_total),
    "each layer holds two adapters": (lora_total, lambda m: adapter_total(m, per_layer=2)),
    "the adapter's number is by how much it narrows": (lora_total, lambda m: adapter_total(D / m)),
}


@find_settings.cases
def settings_cases(seed):
    return [Case("XLM-RoBERTa-large, 3 classes")]


@find_settings.observe
def look_settings(answer, case):
    given(answer, dict, "`settings`")
    missing = [k for k in GOALS if answer.get(k) in (None, ...)]
    if len(missing) == len(GOALS):
        raise NotAttempted
    if missing:
        raise Unexpected(f"No setting yet for {', '.join(missing)}.")
    if bad := [k for k in GOALS if not isinstance(answer[k], int) or answer[k] < 1]:
        raise Unexpected(f"A rank or a width is a whole number, at least 1: look at {', '.join(bad)}.")

    def fits(lora, adapter):
        return {k: round((lora if g < 5 else adapter)(answer[k]) / 1e6) == g for k, g in GOALS.items()}

    seen = {f"{k} reached": ok for k, ok in fits(lora_total, adapter_total).items()}
    reached = all(seen.values())
    seen["all four would be reached if"] = [] if reached else [w for w, f in READINGS.items() if all(fits(*f).values())]
    without_head = fits(*READINGS["the head is left out"])
    seen["reached only if the head were left out"] = [k for k in GOALS if without_head[k] and not seen[f"{k} reached"]]
    return seen | {"_counts": {k: (lora_total if g < 5 else adapter_total)(answer[k]) for k, g in GOALS.items()}}


@find_settings.evidence
def counts_in_words(cases, seen, expected):
    if "error" in seen[0]:
        return None
    told = "Your settings give " + "; ".join(f"{n:,} for {k!r}" for k, n in seen[0]["_counts"].items()) + "."
    if headless := seen[0]["reached only if the head were left out"]:
        told += f" Without the {HEAD:,} parameters of the head, {' and '.join(map(repr, headless))} would be right."
    return told


find_settings.solutions += [
    {"2 million": 8, "4 million": 32, "7 million": 128, "26 million": 512},
    {"2 million": 10, "4 million": 30, "7 million": 120, "26 million": 506},
    {"26 million": 510, "7 million": 125, "4 million": 31, "2 million": 9},
]


def _settings(message, name, *values):
    find_settings.slip(message)(dict(zip(GOALS, values, strict=True)), name)


_settings(
    "All four would fit if the classification head were not trained. It was: how many parameters has it?",
    "leaves-out-the-head", 20, 40, 141, 528,
)  # fmt: skip
_settings(
    "Three of the four are right. The first would be, if LoRA's matrices were all that is trained: what else is, "
    "and in which of the four does it weigh most?",
    "smallest-without-the-head", 16, 32, 128, 512,
)  # fmt: skip
_settings(
    "All four would fit with LoRA on one matrix a layer, or with only A counted. "
    "How many matrices a layer were adapted, and how many parts has each adapter?",
    "one-matrix-a-layer", 18, 62, 128, 512,
)  # fmt: skip
_settings(
    "All four would fit with two adapters a layer (Houlsby's way). The settings asked for have one: what does that do to m?",
    "two-adapters-a-layer", 8, 32, 60, 256,
)  # fmt: skip
_settings(
    "Your adapter numbers say by how *much* the adapter narrows. What was asked for is the width m itself: 1024 divided by what?",
    "narrowing-not-width", 8, 32, 8, 2,
)  # fmt: skip
_settings("The two ranks are in each other's place. Does a larger r give more parameters or fewer?", "ranks-swapped", 32, 8, 128, 512)  # fmt: skip
_settings("The two widths are in each other's place. Does a wider bottleneck have more parameters or fewer?", "widths-swapped", 8, 32, 512, 128)  # fmt: skip
