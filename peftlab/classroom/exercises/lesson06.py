"""Lesson 06, prompts and prefixes: trained tokens (arXiv:2104.08691), trained keys and values (2101.00190), gates (2303.16199)."""

import torch
import torch.nn.functional as F

from ..exercise import Case, Exercise, Part, Question, Unexpected
from ..observing import changed, fresh, given, gradients, pair

LESSON = "06-prompts-and-prefixes"


# ================================================================ predict

reach = Question(
    "prefix-reach",
    lesson=LESSON,
    title="Where a prefix makes a model look",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=3,
    question="In one attention layer, everything frozen, you train keys and values that stand in front of the text. A word gave "
    "word 1 a weight of 0.6 and word 2 a weight of 0.2. After training, which weights can it give these two?",
    options={
        "a": (
            "any weights at all",
            "The scores of the two words come from frozen queries and keys. Which part of a softmax can new scores change?",
        ),
        "b": (
            "0.3 and 0.1, but never 0.1 and 0.3",
            (
                "The new scores only enlarge the sum that all are divided by. Both weights shrink by one factor, and what they "
                "give up goes to the prefix: three to one stays three to one."
            ),
        ),
        "c": ("0.6 and 0.2, as before", "All weights together make one. Where does the prefix take its own from?"),
        "d": (
            "0.1 and 0.3, if the prefix is long enough",
            "Take a hundred trained keys. Does the score of word 2 grow beside that of word 1?",
        ),
    },
    right="b",
)


# ================================================================ prompt tuning

with_prompt = Exercise(
    "prompt-in-front",
    lesson=LESSON,
    title="Prompt tuning",
    signature="with_prompt(P, embeds, mask, labels)",
    dims={"P": "n width", "embeds": "batch words width", "mask": "batch words", "labels": "batch words"},
    why="The method is one line. The other two lines are where it goes wrong: whoever adds tokens must account for them.",
    points=1,
    parts=[
        Part("the embeddings are", 0.5, ("embeddings", "gradient of")),
        Part("mask and labels are", 0.5, ("mask", "labels", "type of")),
    ],
    minutes=7,
    difficulty=1,
    hints=[
        "Three tensors grow by n positions, all on the same side: what is read, what may be looked at, what is to be predicted.",
        "P is the same for each text of the batch: `expand` repeats it without a copy.",
        "Nothing is to be predicted at the n new positions. Which label does a loss of PyTorch ignore?",
    ],
)


@with_prompt.cases
def prompt_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for n, batch, time, d in ((3, 2, 5, 4), (1, 4, 3, 6), (6, 1, 4, 3)):
        mask = torch.ones(batch, time, dtype=torch.long)
        labels = torch.randint(1, 9, (batch, time), generator=draw)
        if batch > 1:
            mask[-1, 0], labels[-1, 0] = 0, -100
        tensors = {
            "P": torch.randn(n, d, generator=draw),
            "embeds": torch.randn(batch, time, d, generator=draw),
            "mask": mask,
            "labels": labels,
        }
        cases.append(Case(f"{n} virtual tokens, {batch} texts of {time} tokens, width {d}", tensors=tensors))
    return cases


@with_prompt.observe
def look_prompt(answer, case):
    inputs = {k: v.clone() for k, v in case.tensors.items()}
    for k in ("P", "embeds"):
        inputs[k].requires_grad_(True)
    out = given(answer(**inputs), (tuple, list), "`with_prompt`")
    if len(out) != 3:
        raise Unexpected(f"`with_prompt` gave {len(out)} things; expected three: embeddings, mask, labels.")
    embeds, mask, labels = (given(part, torch.Tensor, "each of the three") for part in out)
    n, (batch, time, _) = len(case.tensors["P"]), case.tensors["embeds"].shape
    seen = {"shapes": ", ".join(str(tuple(t.shape)) for t in (embeds, mask, labels))}
    if mask.shape != (batch, n + time) or labels.shape != mask.shape or embeds.shape[:2] != mask.shape:
        return seen
    seen |= {
        "embeddings": embeds.detach().clone(),
        "mask at the prompt's positions": sorted(set(mask[:, :n].flatten().tolist())),
        "mask of the text as it was": torch.equal(mask[:, n:].double(), case.tensors["mask"].double()),
        "labels at the prompt's positions": sorted(set(labels[:, :n].flatten().tolist())),
        "labels of the text as they were": torch.equal(labels[:, n:].double(), case.tensors["labels"].double()),
        "type of the mask": str(mask.dtype),
        "type of the labels": str(labels.dtype),
        "changed in place": changed(case.tensors, inputs),
    }
    return seen | gradients(embeds, inputs, ("P", "embeds"))


@with_prompt.solution
def by_padding(P, embeds, mask, labels):
    n = len(P)
    embeds = torch.cat([P.expand(len(embeds), -1, -1), embeds], 1)
    return embeds, F.pad(mask, (n, 0), value=1), F.pad(labels, (n, 0), value=-100)


@with_prompt.solution
def by_new_tensors(P, embeds, mask, labels):
    shape = len(embeds), len(P)
    front = P.unsqueeze(0).repeat(len(embeds), 1, 1)
    return (
        torch.cat((front, embeds), dim=1),
        torch.cat((mask.new_ones(shape), mask), dim=1),
        torch.cat((labels.new_full(shape, -100), labels), dim=1),
    )


@with_prompt.solution
def row_by_row(P, embeds, mask, labels):
    n = P.shape[0]
    rows = torch.stack([torch.vstack([P, row]) for row in embeds])
    ones, nothing = torch.ones(len(mask), n).to(mask), torch.full((len(mask), n), -100).to(labels)
    return rows, torch.hstack([ones, mask]), torch.hstack([nothing, labels])


def _prompted(P, embeds, mask, labels, sides=(0, 0, 0), seen=1, said=-100):
    """The answer with things to get wrong: sides 1 puts that part behind, `seen` and `said` fill mask and labels."""
    n = len(P)
    parts = [P.expand(len(embeds), -1, -1), embeds]
    pads = [(0, n) if side else (n, 0) for side in sides]
    return (
        torch.cat(parts[::-1] if sides[0] else parts, 1),
        F.pad(mask, pads[1], value=seen),
        F.pad(labels, pads[2], value=said),
    )


with_prompt.slip(
    "The prompt stands behind the text. Which words could look at it then, in a model that reads from the left?"
)(lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, (1, 1, 1)), "behind-the-text")
with_prompt.slip("The prompt is masked: the model will never look at it. What does a one in the mask mean?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, seen=0), "prompt-masked"
)
with_prompt.slip("The model is asked to predict token 0 at the prompt's positions. Which label says that nothing is wanted?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, said=0), "labels-of-zero"
)
with_prompt.slip("Embeddings and labels no longer belong together: on which side of the labels did the prompt come?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, (0, 0, 1)), "labels-padded-behind"
)
with_prompt.slip("Embeddings and mask no longer belong together: whose zero has moved to another position?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, (0, 1, 0)), "mask-padded-behind"
)
with_prompt.slip("Mask and labels are as they were, and the text has grown by n positions. How long must they be?")(
    lambda P, embeds, mask, labels: (_prompted(P, embeds, mask, labels)[0], mask, labels), "mask-and-labels-forgotten"
)
with_prompt.slip("The first n words of the text are gone. Does the prompt replace them, or come before them?")(
    lambda P, embeds, mask, labels: (
        torch.cat([P.expand(len(embeds), -1, -1), embeds], 1)[:, : embeds.shape[1]],
        mask,
        labels,
    ),
    "text-cut-to-length",
)
with_prompt.slip("The numbers are right, and no gradient reaches P. What in your code cuts the graph?")(
    lambda P, embeds, mask, labels: _prompted(P.detach(), embeds, mask, labels), "prompt-detached"
)
with_prompt.slip("What was hidden is seen: the mask is all ones. What of the text's own padding?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, torch.ones_like(mask), labels), "padding-uncovered"
)


with_prompt.slip("The labels are as they were, and the text has grown by n positions. How long must they be?")(
    lambda P, embeds, mask, labels: (*_prompted(P, embeds, mask, labels)[:2], labels), "labels-forgotten"
)
with_prompt.slip("The mask is as it was, and the text has grown by n positions. How long must it be?")(
    lambda P, embeds, mask, labels: (_prompted(P, embeds, mask, labels)[0], mask, F.pad(labels, (len(P), 0), value=-100)),
    "mask-forgotten",
)
with_prompt.slip("The mask holds floats now. Of which type was the one you were given, whole numbers or floats?")(
    lambda P, embeds, mask, labels: (
        by_padding(P, embeds, mask, labels)[0],
        torch.cat([torch.ones(len(mask), len(P)), mask], 1),
        by_padding(P, embeds, mask, labels)[2],
    ),
    "mask-of-floats",
)
with_prompt.slip("The prompt's own positions have a label that asks for the text's first token. Is a virtual token to predict anything?")(
    lambda P, embeds, mask, labels: (
        *by_padding(P, embeds, mask, labels)[:2],
        torch.cat([labels[:, :1].expand(-1, len(P)), labels], 1),
    ),
    "labels-repeated",
)
with_prompt.slip("The label at the prompt's positions is -1. Which one does a loss of PyTorch ignore?")(
    lambda P, embeds, mask, labels: _prompted(P, embeds, mask, labels, said=-1), "labels-of-minus-one"
)


# ================================================================ where a prompt starts

start = Exercise(
    "prompt-start",
    lesson=LESSON,
    title="Start from words",
    signature="prompt_from_words(table, ids, n)",
    dims={"table": "vocabulary width"},
    why="Two prompts that differ in their start alone can end far apart.",
    points=1,
    minutes=5,
    difficulty=1,
    hints=[
        "Row `ids[0]` of the table is the first virtual token, row `ids[1]` the second.",
        "Out of words before n is reached? Begin again with the first: `%` gives its index.",
        "The prompt will be trained, the table must stay: is what you return a copy?",
    ],
)


@start.cases
def start_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for words, n in ((2, 5), (6, 3), (4, 4), (3, 7), (1, 3)):
        table = torch.randn(9, 4, generator=draw)
        ids = torch.randperm(9, generator=draw)[:words].tolist()
        cases.append(Case(f"{words} words for {n} virtual tokens", table=table, ids=ids, n=n))
    return cases


@start.observe
def look_start(answer, case):
    table, ids = case.table.clone(), list(case.ids)
    P = given(answer(table, ids, case.n), torch.Tensor, "`prompt_from_words`")
    seen = {"prompt": P.detach().clone(), "the ids afterwards": ids}
    if P.shape == (case.n, table.shape[1]) and P.dim() and 0 in P.stride():
        raise Unexpected("the prompt holds one place of memory more than once, so that no training step can change it: copy it.")
    with torch.no_grad():
        P.add_(1)  # a training step
    return seen | {"the table, after the prompt was trained": table}


@start.solution
def by_index(table, ids, n):
    return table[[ids[i % len(ids)] for i in range(n)]]


@start.solution
def by_repeating(table, ids, n):
    rows = table[torch.tensor(ids)]
    return rows.repeat(n // len(ids) + 1, 1)[:n].clone()


@start.solution
def one_by_one(table, ids, n):
    P = table.new_empty(n, table.shape[1])
    for i in range(n):
        P[i] = table[ids[i % len(ids)]]
    return P


start.slip(
    "The words are repeated one by one, `a a b b`: what comes after the last word, if you read the prompt aloud?"
)(lambda table, ids, n: table[[ids[i * len(ids) // max(n, len(ids))] for i in range(n)]], "each-word-repeated")
start.slip("When the words run out you go on with other rows of the table. With which word does the text begin again?")(
    lambda table, ids, n: table[[ids[i] if i < len(ids) else i % len(table) for i in range(n)]], "goes-on-elsewhere"
)
start.slip("The first rows of the table are used, whatever the words are. What do the ids say?")(
    lambda table, ids, n: table[:n].clone(), "first-rows"
)
start.slip("When the words run out, the last one is repeated. With which word does the text begin again?")(
    lambda table, ids, n: table[[ids[min(i, len(ids) - 1)] for i in range(n)]], "last-word-repeated"
)
start.slip("Every virtual token is the mean of the words. How would the n tokens ever differ?")(
    lambda table, ids, n: table[ids].mean(0).repeat(n, 1), "mean-of-the-words"
)
start.slip("The prompt has as many tokens as there are words. How many were asked for?")(
    lambda table, ids, n: table[ids], "as-many-as-words"
)
start.slip("When the words run out, zeros follow. No token of the model looks like that: what could stand there?")(
    lambda table, ids, n: torch.cat([table[ids], table.new_zeros(max(0, n - len(ids)), table.shape[1])])[:n],
    "padded-with-zeros",
)


@start.slip("Where there are more words than tokens you took the last of them. Which are the first n?")
def the_last_words(table, ids, n):
    kept = ids[-n:] if len(ids) > n else ids
    return table[[kept[i % len(kept)] for i in range(n)]]


@start.slip("There are too few tokens where there were too few words. With which word does the text begin again?")
def the_words_alone(table, ids, n):
    return table[ids[:n]]


@start.slip("The words are right; but the caller's list of ids has grown. Whose list did you lengthen?")
def ids_lengthened(table, ids, n):
    while len(ids) < n:
        ids += ids
    return table[ids[:n]]


# ================================================================ prefix attention


def _heads(seed):
    """One head: queries, keys and values of a text, and n trained keys and values, in float64."""
    draw = torch.Generator().manual_seed(seed)
    for n, asks, words, width in ((3, 4, 5, 6), (1, 2, 4, 3), (5, 1, 3, 8)):
        sizes = {"q": (asks, width), "K": (words, width), "V": (words, width), "Pk": (n, width), "Pv": (n, width)}
        tensors = {k: torch.randn(*s, generator=draw, dtype=torch.float64) for k, s in sizes.items()}
        yield Case(f"{n} trained keys, {asks} queries, {words} words, width {width}", tensors=tensors)


prefix_attention = Exercise(
    "prefix-attention",
    lesson=LESSON,
    title="Prefix tuning, one head",
    signature="prefix_attention(q, K, V, Pk, Pv)",
    dims={"q": "queries width", "K": "words width", "V": "words width", "Pk": "n width", "Pv": "n width"},
    why="Everything on this page follows from what this function can do, and from what it cannot.",
    points=1,
    minutes=6,
    difficulty=1,
    hints=[
        "To a query a trained key is a key like any other. What do you do to keys and values before the attention you know?",
        "One softmax over all of them, divided beforehand by the root of the width.",
    ],
)
prefix_attention.cases(lambda seed: list(_heads(seed)))


@prefix_attention.observe
def look_prefix(answer, case):
    inputs, before = fresh(case.tensors, learn=("q", "Pk", "Pv")), fresh(case.tensors)
    y = given(answer(**inputs), torch.Tensor, "`prefix_attention`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, ("q", "Pk", "Pv"))


@prefix_attention.solution
def joined(q, K, V, Pk, Pv):
    K, V = torch.cat([Pk, K]), torch.cat([Pv, V])
    return torch.softmax(q @ K.T / K.shape[-1] ** 0.5, -1) @ V


@prefix_attention.solution
def by_torch(q, K, V, Pk, Pv):
    k, v = torch.vstack((K, Pk))[None], torch.vstack((V, Pv))[None]
    return F.scaled_dot_product_attention(q[None], k, v)[0]


@prefix_attention.solution
def scores_first(q, K, V, Pk, Pv):
    scores = torch.cat([q @ Pk.mT, q @ K.mT], 1) * q.shape[1] ** -0.5
    weights = scores.exp() / scores.exp().sum(1, keepdim=True)
    return weights[:, : len(Pk)] @ Pv + weights[:, len(Pk) :] @ V


def _attend(q, K, V, scale=None, dim=-1):
    return torch.softmax(q @ K.T / (K.shape[-1] ** 0.5 if scale is None else scale), dim) @ V


prefix_attention.slip("The scores are not divided by the root of the width. How large do they get for wide heads?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), 1), "not-scaled"
)
prefix_attention.slip("You divide by the width itself. Whose root keeps the scores near one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), K.shape[-1]), "divided-by-the-width"
)
prefix_attention.slip(
    "Prefix and text each have a softmax of their own. Out of how many ones do the weights come then?"
)(lambda q, K, V, Pk, Pv: _attend(q, K, V) + _attend(q, Pk, Pv), "two-softmaxes")
prefix_attention.slip("The trained keys take weight, and nothing comes for it. Where are their values?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([0 * Pv, V])), "no-values"
)
prefix_attention.slip("The keys stand in front and the values behind. Which value belongs to the first key?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([V, Pv])), "values-behind"
)
prefix_attention.slip("The softmax runs over the queries. For whom should the weights add up to one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), dim=0), "over-the-queries"
)
prefix_attention.slip("Only the prefix is looked at. Where has the text gone?")(
    lambda q, K, V, Pk, Pv: _attend(q, Pk, Pv), "prefix-alone"
)
prefix_attention.slip("Keys and values have changed places. Which of them is compared with the query?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pv, V]), torch.cat([Pk, K])), "keys-for-values"
)
prefix_attention.slip("This is the attention of the untouched layer. Where does the prefix come in?")(
    lambda q, K, V, Pk, Pv: _attend(q, K, V), "no-prefix"
)


prefix_attention.slip("The scores are multiplied by the root of the width. Should a wide head look more sharply than a narrow one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), K.shape[-1] ** -0.5), "times-the-root"
)
prefix_attention.slip("Two things: the softmax runs over the queries, and the scores are not divided. Along which dimension do one query's weights add up to one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), 1, dim=0), "over-the-queries-and-not-scaled"
)
prefix_attention.slip("Two things: the softmax runs over the queries, and you divide by the width, not its root. Along which dimension do one query's weights add up to one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), K.shape[-1], dim=0),
    "over-the-queries-and-divided-by-the-width",
)
prefix_attention.slip("Two things: the softmax runs over the queries, and you divide by the root of how many keys there are. Along which dimension do one query's weights add up to one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), (len(K) + len(Pk)) ** 0.5, dim=0),
    "over-the-queries-and-root-of-the-keys",
)
prefix_attention.slip("You divide by the root of how many keys there are, the trained ones among them. Whose root keeps the scores near one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), (len(K) + len(Pk)) ** 0.5), "root-of-the-keys"
)
prefix_attention.slip("You divide by the root of how many words there are. Whose root keeps the scores near one?")(
    lambda q, K, V, Pk, Pv: _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]), len(K) ** 0.5), "root-of-the-words"
)
prefix_attention.slip("Prefix and text count half each, whatever the query says. Who decides between them in one softmax?")(
    lambda q, K, V, Pk, Pv: (_attend(q, K, V) + _attend(q, Pk, Pv)) / 2, "half-and-half"
)
prefix_attention.slip("Scores are used as weights. What makes them positive, and adds them up to one?")(
    lambda q, K, V, Pk, Pv: q @ torch.cat([Pk, K]).T / K.shape[-1] ** 0.5 @ torch.cat([Pv, V]), "no-softmax"
)


@prefix_attention.switched(
    pairs=("values-behind", "keys-for-values", "no-values"),
    weights=("over-the-queries", "no-softmax"),
    scale=("not-scaled", "divided-by-the-width", "times-the-root", "root-of-the-words"),
)
def with_switches(q, K, V, Pk, Pv, pairs="", weights="", scale=""):
    width = K.shape[-1]
    keys = torch.cat([Pv, V] if pairs == "keys-for-values" else [Pk, K])
    values = {"values-behind": [V, Pv], "keys-for-values": [Pk, K], "no-values": [0 * Pv, V]}.get(pairs, [Pv, V])
    by = {"not-scaled": 1, "divided-by-the-width": width, "times-the-root": width**-0.5, "root-of-the-words": len(K) ** 0.5}
    scores = q @ keys.T / by.get(scale, width**0.5)
    shares = scores if weights == "no-softmax" else scores.softmax(0 if weights == "over-the-queries" else -1)
    return shares @ torch.cat(values)


# ================================================================ the algebra

split = Exercise(
    "prefix-split",
    lesson=LESSON,
    title="Take it apart",
    signature="prefix_split(q, K, V, Pk, Pv)",
    dims={"q": "queries width", "K": "words width", "V": "words width", "Pk": "n width", "Pv": "n width"},
    why="This is the proof of what a prefix cannot do, in two lines that you can run.",
    points=2,
    parts=[
        Part("the share is", 1, ("share",)),
        Part("the pull is", 1, ("pull",)),
    ],
    minutes=9,
    difficulty=2,
    hints=[
        "Write the softmax as numbers over one sum. Part of that sum comes from the prefix.",
        "The share is the weight that all trained keys get together, one number for each query.",
        "The pull is what attention to the prefix alone would give: its weights add up to one again.",
    ],
)
split.cases(lambda seed: list(_heads(seed)))


@split.observe
def look_split(answer, case):
    inputs, before = fresh(case.tensors), fresh(case.tensors)
    share, pull = pair(answer(**inputs), "`prefix_split`", "the share, (queries,), and the pull, (queries, width)")
    return {
        "shapes": f"{tuple(share.shape)} and {tuple(pull.shape)}",
        "share": share.detach().clone(),
        "pull": pull.detach().clone(),
        "changed in place": changed(before, inputs),
    }


@split.solution
def from_the_weights(q, K, V, Pk, Pv):
    weights = torch.softmax(q @ torch.cat([Pk, K]).T / K.shape[-1] ** 0.5, -1)[:, : len(Pk)]
    share = weights.sum(-1)
    return share, weights @ Pv / share[:, None]


@split.solution
def two_attentions(q, K, V, Pk, Pv):
    width = q.shape[-1] ** 0.5
    mine, theirs = (q @ Pk.T / width), (q @ K.T / width)
    share = torch.sigmoid(mine.logsumexp(-1) - theirs.logsumexp(-1))
    return share, torch.softmax(mine, -1) @ Pv


@split.solution
def by_exponentials(q, K, V, Pk, Pv):
    front, text = (torch.exp(torch.einsum("iw,jw->ij", q, k) / k.shape[1] ** 0.5) for k in (Pk, K))
    total = front.sum(1)
    return total / (total + text.sum(1)), (front / total[:, None]) @ Pv


def _shares(q, K, Pk):
    weights = torch.softmax(q @ torch.cat([Pk, K]).T / K.shape[-1] ** 0.5, -1)
    return weights[:, : len(Pk)], weights[:, len(Pk) :]


@split.slip("Your share is what the text keeps. What is left for the prefix?")
def share_of_the_text(q, K, V, Pk, Pv):
    front, text = _shares(q, K, Pk)
    return text.sum(-1), front @ Pv / front.sum(-1, keepdim=True)


@split.slip(
    "The pull is already multiplied by the share, and the formula multiplies it once more. What do its weights add up to?"
)
def pull_not_normalised(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front.sum(-1), front @ Pv


@split.slip("Your share is the mean weight of a trained key. How much do all of them take together?")
def mean_share(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front.mean(-1), front @ Pv / front.sum(-1, keepdim=True)


@split.slip("Your pull is an even mean of the trained values. Does every query look at all of them alike?")
def even_pull(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front.sum(-1), Pv.mean(0).expand(len(q), -1)


@split.slip("The share compares prefix with text instead of with the whole. Can it become larger than one?")
def odds(q, K, V, Pk, Pv):
    front, text = _shares(q, K, Pk)
    return front.sum(-1) / text.sum(-1), front @ Pv / front.sum(-1, keepdim=True)


@split.slip("The scores lack the root of the width. Is this the softmax of your layer?")
def unscaled(q, K, V, Pk, Pv):
    front = torch.softmax(q @ torch.cat([Pk, K]).T, -1)[:, : len(Pk)]
    return front.sum(-1), front @ Pv / front.sum(-1, keepdim=True)


@split.slip("Your pull is attention to the text. Which values may appear in it?")
def pull_of_the_text(q, K, V, Pk, Pv):
    front, text = _shares(q, K, Pk)
    return front.sum(-1), text @ V / text.sum(-1, keepdim=True)


@split.slip("Your pull mixes the trained keys. What does attention pass on, keys or values?")
def pull_of_keys(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front.sum(-1), front @ Pk / front.sum(-1, keepdim=True)


@split.slip("Your shares are all one: the softmax runs over the prefix alone. Out of which whole is the share taken?")
def share_of_itself(q, K, V, Pk, Pv):
    _, pull = from_the_weights(q, K, V, Pk, Pv)
    return torch.ones_like(pull[:, 0]), pull


@split.slip("Your pull is what the whole head passes on. Which words take no part in what attention to the prefix alone would give?")
def pull_of_all(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front.sum(-1), _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V]))


@split.slip("The share is that of other columns. In which order did you put prefix and text together, and which columns did you take?")
def other_columns(q, K, V, Pk, Pv):
    weights = torch.cat(_shares(q, K, Pk), 1)[:, -len(Pk) :]
    return weights.sum(-1), from_the_weights(q, K, V, Pk, Pv)[1]


@split.slip("The two come in the other order. Which was asked for first?")
def pull_first(q, K, V, Pk, Pv):
    return from_the_weights(q, K, V, Pk, Pv)[::-1]


@split.slip("You return the weight of each trained key. The share is one number for each query: what is it of these weights?")
def each_key_its_share(q, K, V, Pk, Pv):
    front, _ = _shares(q, K, Pk)
    return front, front @ Pv / front.sum(-1, keepdim=True)


# ================================================================ in every layer

cache = Exercise(
    "prefix-cache",
    lesson=LESSON,
    title="A prefix for every layer",
    signature="prefix_cache(P, layers, heads, width, batch)",
    why="Files hold a prefix as one flat matrix. A wrong cut gives the right shapes and another model, and nothing complains.",
    points=1,
    minutes=7,
    difficulty=2,
    hints=[
        "Cut the second dimension of P first: `P.view(n, layers, 2, heads, width)`.",
        "Every text of the batch sees the same prefix; the order of a cache is (batch, heads, n, width).",
        "`permute` changes the order of dimensions; `view` and `reshape` only cut, they never change the order.",
    ],
)


@cache.cases
def cache_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    sizes = ((3, 2, 2, 4, 2), (2, 3, 1, 5, 1), (4, 2, 4, 2, 3), (2, 2, 2, 2, 2))
    return [
        Case(
            f"n = {n}, {layers} layers, {heads} heads of width {width}, {batch} texts",
            P=torch.randn(n, layers * 2 * heads * width, generator=draw),
            sizes=(layers, heads, width, batch),
        )
        for n, layers, heads, width, batch in sizes
    ]


@cache.observe
def look_cache(answer, case):
    P = case.P.clone().requires_grad_(True)
    try:
        made = answer(P, *case.sizes)
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        raise Unexpected(
            "`view` was asked to cut a tensor whose dimensions had been put in another order before, and refuses. (PyTorch's advice, "
            "`reshape`, would copy it and mix the tokens up.) Which comes first, cutting P up as it lies or changing the order?"
        ) from None
    given(made, (list, tuple), "`prefix_cache`")
    layers = [pair(one, "each layer", "keys and values") for one in made]
    seen = {
        "layers": len(layers),
        "shapes": "; ".join(sorted({f"{tuple(k.shape)} and {tuple(v.shape)}" for k, v in layers})),
    }
    for i, (k, v) in enumerate(layers):
        seen |= {f"keys of layer {i}": k.detach().clone(), f"values of layer {i}": v.detach().clone()}
    numbers = torch.cat([t.flatten() for one in layers for t in one])
    return seen | gradients(numbers, {"P": P}, ("P",))


@cache.solution
def cut_and_turn(P, layers, heads, width, batch):
    parts = P.view(len(P), layers, 2, heads, width).permute(1, 2, 3, 0, 4)
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.solution
def step_by_step(P, layers, heads, width, batch):
    made, size = [], heads * width
    for i in range(layers):
        k = P[:, 2 * i * size : (2 * i + 1) * size]
        v = P[:, (2 * i + 1) * size : (2 * i + 2) * size]
        made.append([t.unflatten(1, (heads, width)).transpose(0, 1).repeat(batch, 1, 1, 1) for t in (k, v)])
    return made


@cache.solution
def by_chunks(P, layers, heads, width, batch):
    parts = [p.reshape(len(P), heads, width).movedim(1, 0)[None] for p in P.chunk(2 * layers, 1)]
    parts = [torch.cat([p] * batch) for p in parts]
    return list(zip(parts[::2], parts[1::2]))


def _cut(P, order, to, batch):
    """P cut as `order` says, a list of (name, size), then turned so that the dimensions stand as `to` says."""
    names = ["n", *(name for name, _ in order)]
    parts = P.view(len(P), *(size for _, size in order)).permute([names.index(name) for name in to])
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.slip("Keys and values have changed places. Which come first in a layer's part of P?")
def values_first(P, layers, heads, width, batch):
    return [(v, k) for k, v in cut_and_turn(P, layers, heads, width, batch)]


@cache.slip(
    "You cut keys and values apart first and layers second. Which is the larger piece of P, a layer or its keys?"
)
def two_before_layers(P, layers, heads, width, batch):
    order = [("two", 2), ("layers", layers), ("heads", heads), ("width", width)]
    return _cut(P, order, ["layers", "two", "heads", "n", "width"], batch)


@cache.slip("Each head takes every so many numbers instead of neighbours. Which of heads and width varies faster in P?")
def width_before_heads(P, layers, heads, width, batch):
    order = [("layers", layers), ("two", 2), ("width", width), ("heads", heads)]
    return _cut(P, order, ["layers", "two", "heads", "n", "width"], batch)


@cache.slip(
    "The shapes are right and the tokens are mixed up: `view` was used where the order has to change. Which one turns?"
)
def viewed_not_turned(P, layers, heads, width, batch):
    parts = P.view(layers, 2, heads, len(P), width)
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.slip(
    "The dimensions were put in another order first, and cut afterwards with `reshape`: right shapes, numbers in the wrong places. "
    "While they lie in which order can P be cut?"
)
def reshaped_after_turning(P, layers, heads, width, batch):
    parts = P.T.reshape(layers, 2, heads, len(P), width)
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.slip("The heads were cut apart after the dimensions had been put in another order. While they lie in which order do `heads` and `width` come apart?")
def heads_cut_after_turning(P, layers, heads, width, batch):
    parts = P.unflatten(1, (layers, 2, heads * width)).permute(1, 2, 0, 3).reshape(layers, 2, heads, len(P), width)
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.slip("Heads and tokens stand the wrong way round. In which order does a cache want them?")
def tokens_before_heads(P, layers, heads, width, batch):
    parts = P.view(len(P), layers, 2, heads, width).permute(1, 2, 0, 3, 4)
    return [tuple(t.expand(batch, *t.shape) for t in layer) for layer in parts]


@cache.slip("Every layer has the first layer's prefix. What makes a prefix more than a prompt?")
def one_for_all(P, layers, heads, width, batch):
    return cut_and_turn(P, layers, heads, width, batch)[:1] * layers


@cache.slip("The last layer has the first prefix. From which end are the layers counted?")
def from_the_top(P, layers, heads, width, batch):
    return cut_and_turn(P, layers, heads, width, batch)[::-1]


@cache.slip("The numbers are right, and no gradient reaches P. What in your code cuts the graph?")
def detached(P, layers, heads, width, batch):
    return cut_and_turn(P.detach(), layers, heads, width, batch)


@cache.slip("There is no dimension for the batch. How many texts share this prefix?")
def no_batch(P, layers, heads, width, batch):
    return [tuple(layer) for layer in P.view(len(P), layers, 2, heads, width).permute(1, 2, 3, 0, 4)]


@cache.slip("All keys come first here, and then all values. A cache is filled layer by layer: what does each layer need together?")
def keys_then_values(P, layers, heads, width, batch):
    return list(zip(*cut_and_turn(P, layers, heads, width, batch)))


@cache.slip("One text is served. How many texts of the batch need keys and values of their own?")
def batch_of_one(P, layers, heads, width, batch):
    return cut_and_turn(P, layers, heads, width, 1)


@cache.slip("The last two dimensions are the wrong way round. In which order does a cache want tokens and width?")
def width_before_tokens(P, layers, heads, width, batch):
    return [(k.mT, v.mT) for k, v in cut_and_turn(P, layers, heads, width, batch)]


# ================================================================ LLaMA-Adapter

gated = Exercise(
    "gated-prefix",
    lesson=LESSON,
    title="A prefix with a gate",
    signature="gated_prefix(q, K, V, Pk, Pv, gate)",
    dims={"q": "queries width", "K": "words width", "V": "words width", "Pk": "n width", "Pv": "n width"},
    why="One number decides whether training starts at the model or somewhere else.",
    points=1,
    minutes=6,
    difficulty=2,
    hints=[
        "With `gate = 0` the layer must say what it said without a prefix, to the last digit.",
        "So the prefix must not take weight from the text: it gets a softmax of its own.",
    ],
)


@gated.cases
def gated_cases(seed):
    cases = []
    for i, case in enumerate(_heads(seed)):
        gate = torch.tensor([0.0, 0.7, -1.6][i], dtype=torch.float64)
        cases.append(Case(f"{case.label}, gate {gate:.1f}", tensors=case.tensors | {"gate": gate}))
    return cases


@gated.observe
def look_gated(answer, case):
    inputs, before = fresh(case.tensors, learn=("Pk", "Pv", "gate")), fresh(case.tensors)
    y = given(answer(**inputs), torch.Tensor, "`gated_prefix`")
    seen = {"output": y.detach().clone(), "changed in place": changed(before, inputs)}
    return seen | gradients(y, inputs, ("Pk", "Pv", "gate"))


@gated.solution
def two_attentions_added(q, K, V, Pk, Pv, gate):
    scale = K.shape[-1] ** -0.5
    text = torch.softmax(q @ K.T * scale, -1) @ V
    return text + gate * (torch.softmax(q @ Pk.T * scale, -1) @ Pv)


@gated.solution
def twice_by_torch(q, K, V, Pk, Pv, gate):
    text, front = (F.scaled_dot_product_attention(q[None], k[None], v[None])[0] for k, v in ((K, V), (Pk, Pv)))
    return torch.addcmul(text, gate, front)


@gated.solution
def one_product(q, K, V, Pk, Pv, gate):
    scores = [q @ k.mT / q.shape[1] ** 0.5 for k in (K, Pk)]
    weights = torch.cat([scores[0].softmax(1), gate * scores[1].softmax(1)], 1)
    return weights @ torch.cat([V, Pv])


gated.slip("With a gate of zero the prefix still takes weight from the text. How many softmaxes leave the text alone?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, torch.cat([Pk, K]), torch.cat([gate * Pv, V])), "one-softmax"
)
gated.slip("The gate is inside the softmax. What are the weights when all scores are zero?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + torch.softmax(gate * (q @ Pk.T) / K.shape[-1] ** 0.5, -1) @ Pv,
    "gate-inside",
)
gated.slip("There is no gate in what you add. With which number does it begin?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + _attend(q, Pk, Pv), "no-gate"
)
gated.slip("The text is turned down by as much as the prefix is turned up. Whose gate is it?")(
    lambda q, K, V, Pk, Pv, gate: (1 - gate) * _attend(q, K, V) + gate * _attend(q, Pk, Pv), "text-turned-down"
)
gated.slip("The gate goes through tanh. That is a good idea of others; is it in the equation above?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + torch.tanh(gate) * _attend(q, Pk, Pv), "tanh"
)
gated.slip("The gate multiplies text and prefix together. What does the layer say at zero?")(
    lambda q, K, V, Pk, Pv, gate: gate * (_attend(q, K, V) + _attend(q, Pk, Pv)), "both-gated"
)
gated.slip("The prefix's scores are not divided by the root of the width. Are its keys any different from the text's?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + gate * _attend(q, Pk, Pv, 1), "prefix-not-scaled"
)
gated.slip("The numbers are right, and the gate gets no gradient. It starts at zero: who is to open it?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + gate.item() * _attend(q, Pk, Pv), "gate-a-plain-number"
)


gated.slip("The gate goes through a sigmoid, which is a half at zero. How much of the prefix may count at the start?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + torch.sigmoid(gate) * _attend(q, Pk, Pv), "sigmoid"
)
gated.slip("The gate opens on attention to prefix *and* text, so the text counts twice. What is inside the second softmax?")(
    lambda q, K, V, Pk, Pv, gate: _attend(q, K, V) + gate * _attend(q, torch.cat([Pk, K]), torch.cat([Pv, V])),
    "text-behind-the-gate",
)
gated.slip("Only the prefix counts. What does the layer say when the gate is zero?")(
    lambda q, K, V, Pk, Pv, gate: gate * _attend(q, Pk, Pv), "text-gone"
)


@gated.slip(
    "At a gate of zero you leave the prefix out of the computation. The numbers are right; but which gradient is to open the gate?"
)
def left_out_at_zero(q, K, V, Pk, Pv, gate):
    text = _attend(q, K, V)
    return text + gate * _attend(q, Pk, Pv) if gate != 0 else text


# ================================================================ how many parameters

count = Exercise(
    "prompt-count",
    lesson=LESSON,
    title="Count both",
    signature="virtual_count(n, layers, hidden, heads, kv_heads)",
    why="'Prompt methods train a thousandth' is said of two methods whose sizes are far apart.",
    points=1,
    minutes=4,
    difficulty=1,
    hints=[
        "A virtual token of a prompt is one embedding.",
        "A virtual token of a prefix is a key and a value in each layer, as wide as that layer's keys.",
        "The width of a head is `hidden // heads`; there are only `kv_heads` heads of keys.",
    ],
)


@count.cases
def count_cases(seed):
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for heads, kv in ((4, 4), (8, 2), (6, 3), (9, 3)):
        n, layers, width = (
            int(torch.randint(low, high, (), generator=draw)) for low, high in ((3, 40), (3, 30), (5, 70))
        )
        sizes = {"n": n, "layers": layers, "hidden": heads * width, "heads": heads, "kv_heads": kv}
        cases.append(Case(", ".join(f"{k} = {v}" for k, v in sizes.items()), sizes=sizes))
    return cases


@count.observe
def look_count(answer, case):
    made = given(answer(**case.sizes), (tuple, list), "`virtual_count`")
    if len(made) != 2:
        raise Unexpected(f"`virtual_count` gave {len(made)} numbers; expected two: the prompt's, the prefix's.")
    return {"prompt": given(made[0], int, "the first number"), "prefix": given(made[1], int, "the second number")}


@count.solution
def closed_form(n, layers, hidden, heads, kv_heads):
    return n * hidden, n * layers * 2 * kv_heads * (hidden // heads)


@count.solution
def whole_numbers(n, layers, hidden, heads, kv_heads):
    return n * hidden, 2 * layers * n * hidden * kv_heads // heads


@count.solution
def by_tensors(n, layers, hidden, heads, kv_heads):
    on_meta = {"device": "meta"}
    prompt = torch.empty(n, hidden, **on_meta)
    prefix = torch.empty(layers, 2, kv_heads, n, hidden // heads, **on_meta)
    return prompt.numel(), prefix.numel()


count.slip("Keys were counted as wide as the model. How many heads of keys does this layer have?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * layers * 2 * hidden), "as-wide-as-the-model"
)
count.slip("The prefix has keys and no values, or the other way round. What does attention need besides a key?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * layers * kv_heads * (hidden // heads)), "keys-alone"
)
count.slip("The prefix stands in one layer. In how many is it trained?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * 2 * kv_heads * (hidden // heads)), "one-layer"
)
count.slip("The prompt was counted in every layer. Where are its parameters trained?")(
    lambda n, layers, hidden, heads, kv_heads: (n * layers * hidden, n * layers * 2 * kv_heads * (hidden // heads)),
    "prompt-in-every-layer",
)
count.slip("The width of a head came out wrong: by which number of heads is the model's width cut?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * layers * 2 * heads * (hidden // kv_heads)),
    "cut-by-the-wrong-heads",
)
count.slip("One virtual token was counted. How many are there?")(
    lambda n, layers, hidden, heads, kv_heads: (hidden, layers * 2 * kv_heads * (hidden // heads)), "one-token"
)
count.slip("The two numbers have changed places. Which was asked for first?")(
    lambda n, layers, hidden, heads, kv_heads: (n * layers * 2 * kv_heads * (hidden // heads), n * hidden),
    "changed-places",
)
count.slip("Each head was counted as wide as the model. Among how many heads is that width shared?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * layers * 2 * kv_heads * hidden), "width-not-shared"
)
count.slip("Keys and values were counted by the heads, and not by their numbers. How wide is a head?")(
    lambda n, layers, hidden, heads, kv_heads: (n * hidden, n * layers * 2 * kv_heads), "heads-without-width"
)
