"""Lesson 13, the library and more than one process: what goes wrong between `Trainer` and `peft`, and what processes tell each other.

Where an answer runs in several processes, all of them are run here in one, one after the other (`side_by_side`).
"""

import copy
from functools import lru_cache

import torch
from torch import nn

from ..exercise import Case, Exercise, Question, Unexpected
from ..observing import TINY, given

LESSON = "13-the-library-and-beyond"


def draws(seed):
    """A function that draws normal tensors of a shape, the same for the same seed."""
    draw = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=draw)


def some(seed, low, high, n):
    """n whole numbers from low to high - 1."""
    return torch.randint(low, high, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


# ================================================================ predict

loaded = Question(
    "loaded-adapter-trains",
    lesson=LESSON,
    title="Loaded, and on it goes",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=1,
    question="An adapter was trained, saved, and loaded again: `model = PeftModel.from_pretrained(base, folder)`. You give `model` to "
    "`Trainer` once more, with the same data. What happens?",
    options={
        "a": (
            "training goes on where it stopped: the file holds all that was trained",
            "The file holds the numbers. Does it say that they are to be trained further?",
        ),
        "b": (
            "the adapter starts from nothing: `Trainer` initialises what it trains",
            "`Trainer` takes a model as it is. Who would draw new numbers?",
        ),
        "c": (
            "it stops with an error: no parameter of the model requires a gradient",
            "Loaded, an adapter is meant for use, so the library freezes it. `is_trainable=True` says otherwise.",
        ),
        "d": (
            "the base is trained, since the adapter is part of it now",
            "Of which parameters would you look at `requires_grad` to know?",
        ),
    },
    right="c",
)

unequal = Question(
    "unequal-labels",
    lesson=LESSON,
    title="Two halves of a batch",
    signature='"a", "b", "c" or "d"',
    points=0,
    minutes=2,
    question="Two processes train one model. One has a batch with 5 labels, the other with 37. Each takes the mean of the loss over its own labels, and "
    "the gradients of the two are averaged. Is this the gradient of the mean over all 42 labels?",
    options={
        "a": (
            "yes: a mean of means is a mean",
            "Try it with numbers: one label with loss 8, and three with loss 0. What is the mean of the two means, and what the mean of all four?",
        ),
        "b": (
            "no: a label of the short half counts more than seven times as much as one of the long half",
            "Each half has the same say, however many labels it is made of.",
        ),
        "c": (
            "nearly: the two differ by rounding alone",
            "Rounding is one part in a million or so. By how much does the share of one label differ in the two halves?",
        ),
        "d": (
            "yes in its direction; only the length is another, and the optimizer sees to that",
            "Two gradients with other weights are added up. When do both sums point the same way?",
        ),
    },
    right="b",
)


# ================================================================ rows as Trainer wants them

features = Exercise(
    "trainer-features",
    lesson=LESSON,
    title="Rows as `Trainer` wants them",
    signature="features(prompt, answer, eos)",
    why="`Trainer` throws away every column that the model does not ask for. What it asks for is three lists of numbers, and one of them says what is learnt.",
    points=2,
    minutes=8,
    difficulty=1,
    hints=[
        "The model reads prompt, answer and the end, one after the other.",
        "Labels have the length of what is read: at each place the token itself, where it is to be learnt. The model compares each place with the next by itself.",
        "Which number does PyTorch's cross-entropy leave out? It is the default of its `ignore_index`.",
    ],
)


@features.cases
def features_cases(seed):
    sizes = [(4, 6), (1, 3), (7, 2)]
    return [
        Case(
            f"a prompt of {p} tokens and an answer of {a}",
            prompt=some(10 * seed + i, 20, 60, p),
            answer=some(10 * seed + i + 5, 20, 60, a),
            eos=1 + (seed + i) % 9,
        )
        for i, (p, a) in enumerate(sizes)
    ]


@features.observe
def look_features(answer, case):
    prompt, reply = list(case.prompt), list(case.answer)
    row = given(answer(prompt, reply, case.eos), dict, "`features`")
    lost = [key for key in ("input_ids", "attention_mask", "labels") if key not in row]
    if lost:
        raise Unexpected(f"the row has no {' and no '.join(f'`{k}`' for k in lost)}; it has {', '.join(map(repr, row)) or 'nothing'}.")
    out = {key: " ".join(str(int(v)) for v in given(row[key], (list, tuple), f"`{key}`")) for key in ("input_ids", "attention_mask", "labels")}
    return out | {"prompt and answer are left as they were": prompt == case.prompt and reply == case.answer}


@features.evidence
def the_first_place(cases, seen, expected):
    """Which place of which list is wrong first, and what is read there."""
    for case, mine, theirs in zip(cases, seen, expected):
        for key in ("input_ids", "attention_mask", "labels"):
            a, b = mine.get(key, "").split(), theirs[key].split()
            if a == b:
                continue
            if len(a) != len(b):
                return f"With {case.label} your `{key}` has {len(a)} entries; prompt, answer and the end make {len(b)}. Which are missing, or too many?"
            at = next(i for i, (x, y) in enumerate(zip(a, b)) if x != y)
            where = "in the prompt" if at < len(case.prompt) else "in the answer" if at < len(b) - 1 else "at the end"
            return f"With {case.label}, place {at} is {where}, and your `{key}` has {a[at]} there. What is this place for: is it read, is it learnt?"
    return None


@features.solution
def by_parts(prompt, answer, eos):
    ids = prompt + answer + [eos]
    labels = [-100] * len(prompt) + answer + [eos]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


@features.solution
def place_by_place(prompt, answer, eos):
    row = {"input_ids": [], "attention_mask": [], "labels": []}
    for i, token in enumerate([*prompt, *answer, eos]):
        row["input_ids"].append(token)
        row["attention_mask"].append(1)
        row["labels"].append(token if i >= len(prompt) else -100)
    return row


@features.solution
def as_tensors(prompt, answer, eos):
    ids = torch.tensor(prompt + answer + [eos])
    labels = ids.clone()
    labels[: len(prompt)] = -100
    return {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": labels.tolist()}


def row_of(prompt, answer, eos, labels, mask=None, ids=None):
    ids = [*prompt, *answer, eos] if ids is None else ids
    return {"input_ids": ids, "attention_mask": [1] * len(ids) if mask is None else mask, "labels": labels}


@features.slip("The prompt is learnt too: its tokens are among the labels. Which part is the model to write?")
def prompt_learnt(prompt, answer, eos):
    return row_of(prompt, answer, eos, [*prompt, *answer, eos])


@features.slip("The labels are moved by one place. The model does that itself: what does it learn if both of you do it?")
def moved_by_hand(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * (len(prompt) - 1) + [*answer, eos, -100])


@features.slip("There is no end: the model never learns when to stop. What stands after an answer?")
def no_end(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * len(prompt) + answer, ids=[*prompt, *answer])


@features.slip("The end is read and not learnt. How is the model to know when it is done?")
def end_not_learnt(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * len(prompt) + answer + [-100])


@features.slip("The prompt's labels are 0, and 0 is a token like any other, which is learnt. Which number is left out of the loss?")
def zeros(prompt, answer, eos):
    return row_of(prompt, answer, eos, [0] * len(prompt) + [*answer, eos])


@features.slip("The prompt's labels are -1, for which cross-entropy has no class. Which number does it leave out?")
def minus_one(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-1] * len(prompt) + [*answer, eos])


@features.slip("The labels hold the answer alone, and are shorter than what is read. Which label belongs to place 0?")
def answer_alone(prompt, answer, eos):
    return row_of(prompt, answer, eos, [*answer, eos])


@features.slip("The attention mask hides the prompt from the answer. What is it to answer then?")
def prompt_hidden(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * len(prompt) + [*answer, eos], mask=[0] * len(prompt) + [1] * (len(answer) + 1))


@features.slip("The attention mask has -100 in it. It says which places are read, by 1 and 0: which are?")
def mask_of_labels(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * len(prompt) + [*answer, eos], mask=[-100] * len(prompt) + [1] * (len(answer) + 1))


@features.slip("The answer is not among what is read: the model sees the prompt alone. From what does it learn the second letter?")
def prompt_alone(prompt, answer, eos):
    return row_of(prompt, answer, eos, [-100] * len(prompt) + [*answer, eos], ids=[*prompt])


# ================================================================ what a pattern hits

hitting = Exercise(
    "target-hits",
    lesson=LESSON,
    title="What a target hits",
    signature="hits(names, target_modules)",
    why="A name that matches nothing is an error only if no other matches. Else the adapter is smaller than you think, and nobody says so.",
    points=2,
    minutes=12,
    difficulty=2,
    hints=[
        "A list and a string are two different things: the entries of a list are endings of names, a string is one regular expression.",
        "An ending begins at a dot, or is the whole name: `old_q_proj` does not end in the name `q_proj`.",
        "A regular expression has to fit the whole name. Which function of `re` asks for that?",
    ],
)

BLOCK = ["self_attn.q_proj", "self_attn.v_proj", "self_attn.q_proj_norm", "self_attn.old_q_proj", "mlp.up_proj"]


@hitting.cases
def hitting_cases(seed):
    n = 2 + seed % 3
    llama = [f"model.layers.{i}.{part}" for i in range(n) for part in BLOCK] + ["lm_head"]
    both = [f"{side}.layers.{i}.{part}" for side in ("encoder", "decoder") for i in range(n) for part in BLOCK[:3]]
    rows = [
        ("two endings, one of which is nowhere", llama, ["q_proj", "value"]),
        ("an ending of two parts, and a whole name", llama, ["self_attn.v_proj", "lm_head"]),
        ("a regular expression in a list", llama, [r".*\.q_proj", "up_proj"]),
        ("a regular expression", both, r"encoder\..*\.(q|v)_proj"),
        ("a string that is an ending", llama, "q_proj"),
        ("two names in one string", llama, "q_proj,v_proj"),
        ("a layer's number in a regular expression", llama, rf".*\.{n - 1}\.self_attn\..*"),
        ("three endings", both, ["v_proj", "q_proj_norm", "proj"]),
    ]
    return [Case(label, names=names, targets=targets) for label, names, targets in rows]


@hitting.observe
def look_hitting(answer, case):
    found = given(answer(list(case.names), copy.copy(case.targets)), dict, "`hits`")
    entries = [str(key) for key in found]
    wanted = [case.targets] if isinstance(case.targets, str) else case.targets
    if sorted(entries) != sorted(wanted):
        raise Unexpected(f"`hits` has the keys {entries}. Expected one for each of {wanted}: a string is one pattern, a list has an entry for each.")
    return {"layers that each entry hits": [sorted(map(str, given(found[key], (list, tuple, set), f"`hits` for {key!r}"))) for key in wanted]}


@hitting.evidence
def a_name_that_differs(cases, seen, expected):
    """The first pattern and name of which the answer says another thing."""
    what = "layers that each entry hits"
    for case, mine, theirs in zip(cases, seen, expected):
        patterns = [case.targets] if isinstance(case.targets, str) else case.targets
        for pattern, a, b in zip(patterns, mine.get(what, ()), theirs[what]):
            odd = [name for name in case.names if (name in a) != (name in b)]
            if odd:
                kind = "The string" if isinstance(case.targets, str) else "The entry of a list"
                said = "hits" if odd[0] in a else "does not hit"
                return f"{kind} `{pattern}` {said} `{odd[0]}` by your function. Is that so for an ending, for a whole name, for a regular expression?"
            if len(a) != len(b):
                return f"For `{pattern}` your list has {len(a)} names, and {len(b)} layers are hit. Which are in it twice?"
    return None


@hitting.solution
def two_kinds(names, target_modules):
    import re

    if isinstance(target_modules, str):
        return {target_modules: [name for name in names if re.fullmatch(target_modules, name)]}
    return {end: [name for name in names if name == end or name.endswith("." + end)] for end in target_modules}


@hitting.solution
def by_a_dot_before(names, target_modules):
    import re

    if isinstance(target_modules, str):
        pattern = re.compile(f"(?:{target_modules})$")
        return {target_modules: list(filter(pattern.match, names))}
    found = {end: [] for end in target_modules}
    for name in names:
        for end in target_modules:
            if f".{name}".endswith(f".{end}"):
                found[end].append(name)
    return found


@hitting.solution
def by_parts_of_names(names, target_modules):
    import re

    def hit(target, name):
        if isinstance(target_modules, str):
            return re.fullmatch(target, name) is not None
        parts = target.split(".")
        return name.split(".")[-len(parts) :] == parts

    targets = [target_modules] if isinstance(target_modules, str) else target_modules
    return {target: [n for n in names if hit(target, n)] for target in targets}


def by(names, targets, in_list, of_string):
    """Hits with a rule of (target, name) for entries of a list and another for a string."""
    if isinstance(targets, str):
        return {targets: [n for n in names if of_string(targets, n)]}
    return {t: [n for n in names if in_list(t, n)] for t in targets}


def whole(pattern, name):
    import re

    return re.fullmatch(pattern, name) is not None


def ending(end, name):
    return f".{name}".endswith(f".{end}")


@hitting.slip("An ending matches in the middle of a word: `old_q_proj` is taken for `q_proj`. Where has the name of a layer to begin?")
def any_ending(names, target_modules):
    return by(names, target_modules, lambda t, n: n.endswith(t), whole)


@hitting.slip("A name matches wherever it occurs, in `q_proj_norm` too. Where has a list's entry to stand in the name of a layer?")
def anywhere(names, target_modules):
    return by(names, target_modules, lambda t, n: t in n, whole)


@hitting.slip("The entries of a list are read as regular expressions. What are they in the library?")
def list_of_expressions(names, target_modules):
    return by(names, target_modules, whole, whole)


@hitting.slip("A string is read as an ending. What is it in the library, when it stands alone?")
def string_as_ending(names, target_modules):
    return by(names, target_modules, ending, ending)


@hitting.slip("The regular expression may fit any part of a name. Which part of it has to fit?")
def searched(names, target_modules):
    import re

    return by(names, target_modules, ending, re.search)


@hitting.slip("The regular expression may stop before the end of a name. How much of it has to fit?")
def matched_from_the_start(names, target_modules):
    import re

    return by(names, target_modules, ending, re.match)


@hitting.slip("Only the last part of a name is looked at: `self_attn.v_proj` is never found. Of how many parts may an entry be?")
def last_part(names, target_modules):
    return by(names, target_modules, lambda t, n: n.split(".")[-1] == t, whole)


@hitting.slip("A name that is the whole entry, such as `lm_head`, is not found: there is no dot before it. What else counts as an ending?")
def a_dot_needed(names, target_modules):
    return by(names, target_modules, lambda t, n: n.endswith("." + t), whole)


@hitting.slip("Only whole names are found. How long is the part of a name that a list's entry gives?")
def whole_names(names, target_modules):
    return by(names, target_modules, lambda t, n: t == n, whole)


@hitting.slip("A string is cut at its commas into several endings. What is a string in the library?")
def cut_at_commas(names, target_modules):
    return by(names, target_modules, ending, lambda t, n: any(ending(part, n) for part in t.split(",")) or whole(t, n))


# ================================================================ does it come back

returning = Exercise(
    "round-trip",
    lesson=LESSON,
    title="Does it come back?",
    signature="round_trip(model, x, save, fresh, load)",
    why="A file that lacks something raises no error. One comparison with what comes back from it does, and it belongs after every training.",
    points=2,
    minutes=8,
    difficulty=2,
    hints=[
        "Save, make a *fresh* base, load the file onto that, and let both answer the same `x`.",
        "What acts while a model trains, and must be off while two are compared?",
        "A difference has a sign, and the largest one may be below zero.",
    ],
)


class Rater(nn.Module):
    """A body that is always the same, and a head that is drawn anew for each base, as for a classifier."""

    def __init__(self, seed, number, width=6):
        super().__init__()
        draw = draws(seed)
        self.body, self.down, self.up = nn.Linear(width, width), nn.Linear(width, 2), nn.Linear(2, width)
        self.head, self.drop = nn.Linear(width, 3), nn.Dropout(0.5)
        with torch.no_grad():
            for layer in (self.body, self.down, self.up, self.head):
                for p in layer.parameters():
                    p.copy_(draw(*p.shape))
            self.up.weight.zero_(), self.up.bias.zero_()
            head = draws(1000 + 7 * seed + number)
            self.head.weight.copy_(head(3, width)), self.head.bias.copy_(head(3))

    def forward(self, x):
        y = self.body(x)
        return self.head(self.drop(torch.tanh(y + self.up(self.down(y)))))


@returning.cases
def returning_cases(seed):
    all_of_it, adapter = ("down", "up", "head"), ("down", "up")
    rows = [  # what the file holds, in words and as parts, how far training moved the head's bias, training mode
        ("the adapter and the head", all_of_it, 0, True),
        ("the adapter alone", adapter, -9, True),
        ("the head alone", ("head",), 0, True),
        ("the adapter alone", adapter, 9, False),
    ]
    return [
        Case(f"a file that holds {what}, a model in {'training' if training else 'evaluation'} mode", what=what,
             seed=seed + 3 * i, x=draws(seed + i)(5, 6), parts=parts, moved=moved, training=training)
        for i, (what, parts, moved, training) in enumerate(rows)
    ]  # fmt: skip


@returning.observe
def look_returning(answer, case):
    made, draw = [], draws(case.seed + 50)
    model = Rater(case.seed, 0)
    with torch.no_grad():
        for p in (*model.up.parameters(), *model.head.parameters()):
            p.add_(draw(*p.shape))
        model.head.bias.add_(case.moved)
    model.train(case.training)
    before = {name: p.clone() for name, p in model.state_dict().items()}

    def save(trained):
        return {n: p.clone() for n, p in given(trained, Rater, "what you gave to `save`").state_dict().items() if n.split(".")[0] in case.parts}

    def fresh():
        made.append(Rater(case.seed, 1 + len(made)))
        return made[-1]

    def load(base, file):
        given(base, Rater, "what you gave to `load`").load_state_dict(given(file, dict, "what you gave to `load` as the file"), strict=False)
        return base

    value = answer(model, case.x.clone(), save, fresh, load)
    if isinstance(value, bool) or isinstance(value, torch.Tensor) and value.numel() != 1:
        came = value if isinstance(value, bool) else f"a tensor of shape {tuple(value.shape)}"
        raise Unexpected(f"`round_trip` gave {came}; expected one number, the largest difference.")
    value = float(given(value, (float, int, torch.Tensor), "`round_trip`"))
    same = all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    return {"largest difference": torch.tensor(round(value, 5)), "the trained model keeps its weights": same}


@returning.evidence
def what_a_whole_file_gives(cases, seen, expected):
    """What the answer says of a file that is whole, and of one that is not."""
    if any("largest difference" not in s for s in seen):
        return None
    said = [f"{float(s['largest difference']):.3g} for a file with {case.what}" for s, case in zip(seen, cases)]
    return f"You found {'; '.join(said)}. Only the first file holds all that a fresh base lacks. What should a comparison say of each?"


@returning.solution
def as_asked(model, x, save, fresh, load):
    again = load(fresh(), save(model))
    model.eval()
    again.eval()
    with torch.no_grad():
        return (model(x) - again(x)).abs().max().item()


@returning.solution
def and_back_to_training(model, x, save, fresh, load):
    file, before = save(model), model.training
    outputs = []
    for each in (model, load(fresh(), file)):
        each.train(False)
        outputs.append(each(x).detach())
    model.train(before)
    return float(torch.max(torch.abs(outputs[0] - outputs[1])))


@returning.solution
def number_by_number(model, x, save, fresh, load):
    base = fresh()
    again = load(base, save(model)).eval()
    pairs = zip(model.eval()(x).flatten().tolist(), again(x).flatten().tolist())
    return max(abs(a - b) for a, b in pairs)


def outputs_of(model, again, x, mode=(False, False)):
    model.train(mode[0]), again.train(mode[1])
    with torch.no_grad():
        return model(x), again(x)


@returning.slip("The file is loaded into the very model it came from, where nothing can be missing. Onto what will others load it?")
def into_itself(model, x, save, fresh, load):
    y, z = outputs_of(model, load(copy.deepcopy(model), save(model)), x)
    return (y - z).abs().max().item()


@returning.slip("The trained model still drops activations at random. In which mode are two models compared?")
def still_training(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x, (model.training, False))
    return (y - z).abs().max().item()


@returning.slip("The model that was loaded still drops activations at random. In which mode are two models compared?")
def loaded_in_training(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x, (False, True))
    return (y - z).abs().max().item()


@returning.slip("Both models drop activations at random. In which mode are two models compared?")
def both_in_training(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x, (True, True))
    return (y - z).abs().max().item()


@returning.slip("This is the mean of the differences: a single large one hides among small ones. Which one was asked for?")
def the_mean(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x)
    return (y - z).abs().mean().item()


@returning.slip("The sign is still there: what is too small by much counts as no difference. What is to be taken first?")
def with_its_sign(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x)
    return (y - z).max().item()


@returning.slip("The fresh base is compared, and nothing was loaded onto it. Where does the file come in?")
def nothing_loaded(model, x, save, fresh, load):
    y, z = outputs_of(model, fresh(), x)
    return (y - z).abs().max().item()


@returning.slip("Two fresh bases with the same file are compared with each other. Where is the model that was trained?")
def two_copies(model, x, save, fresh, load):
    y, z = outputs_of(load(fresh(), save(model)), load(fresh(), save(model)), x)
    return (y - z).abs().max().item()


@returning.slip("The largest outputs are compared, each model's own, and not output by output. Which difference is the largest?")
def largest_outputs(model, x, save, fresh, load):
    y, z = outputs_of(model, load(fresh(), save(model)), x)
    return abs(y.max().item() - z.max().item())


# ================================================================ go on training

going_on = Exercise(
    "trainable-only",
    lesson=LESSON,
    title="Train this adapter, and nothing else",
    signature="trainable_only(model, name)",
    why="An adapter that was loaded is frozen. What `is_trainable=True` does, and `set_adapter`, is one look at the names of the parameters.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "Print the names of a model's parameters: where does the adapter's own name stand?",
        "Names are made of parts, with dots between them. `it` is a part of `lora_A.it.weight`; of which other words is it only a piece?",
        "Everything else is frozen, whatever it was before: the base, and the other adapters.",
    ],
)


@going_on.cases
def going_on_cases(seed):
    import peft  # noqa: F401 - the sandbox draws cases before a submission comes: it then has the library at hand

    rows = [
        ("adapters `it` and `it2`, just loaded", ("it", "it2"), "it", "frozen"),
        ("adapters `it` and `it2`, the second asked for", ("it", "it2"), "it2", "frozen"),
        ("an adapter and a copy of the head", ("words", "head"), "head", "head"),
        ("all that is there unfrozen before", ("pt", "it"), "pt", "all"),
        ("an adapter called `proj`, as a piece of the layers' names", ("proj", "default"), "proj", "frozen"),
    ]
    return [Case(label, seed=seed, adapters=a, name=name, before=before) for label, a, name, before in rows]


@lru_cache(maxsize=64)
def llama(seed, tie):
    """A tiny model, made once: take copies of it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**TINY, num_key_value_heads=1, tie_word_embeddings=tie)).eval()


@lru_cache(maxsize=64)
def adapted(seed, names, copies):
    """A tiny model of the library with these adapters, made once: take copies of it."""
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=copies)
    model = peft.get_peft_model(copy.deepcopy(llama(seed, False)), config, names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


@going_on.observe
def look_going_on(answer, case):
    model = copy.deepcopy(adapted(case.seed, case.adapters, ("lm_head",) if case.before == "head" else None))
    model.requires_grad_(case.before == "all")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    answer(model, case.name)
    found = [n.removeprefix("base_model.model.") for n, p in model.named_parameters() if p.requires_grad]
    same = all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    return {"parameters that require a gradient": sorted(found), "no weight was changed": same}


@going_on.evidence
def too_many_or_too_few(cases, seen, expected):
    """One parameter that trains and should not, or the other way round."""
    what = "parameters that require a gradient"
    for case, mine, theirs in zip(cases, seen, expected):
        a, b = mine.get(what, []), theirs[what]
        odd = sorted(set(a) ^ set(b))
        if odd:
            said = "requires a gradient" if odd[0] in a else "requires none"
            return f"With {case.label}, `{case.name}` asked for: `{odd[0]}` {said}, one of {len(odd)} such parameters. Whose is it?"
    return None


@going_on.solution
def by_parts_of_the_name(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(name in path.split("."))


@going_on.solution
def off_and_on(model, name):
    model.requires_grad_(False)
    for path, p in model.named_parameters():
        if f".{name}." in path:
            p.requires_grad = True


@going_on.solution
def by_the_library(model, name):
    for p in model.parameters():
        p.requires_grad = False
    model.set_adapter(name)


@going_on.slip("A name matches inside other words: parameters of layers or of other adapters come along. Of what are a parameter's names made?")
def a_piece_of_a_word(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(name in path)


@going_on.slip("Everything trains, the base too. What is frozen in PEFT?")
def everything_trains(model, name):
    model.requires_grad_(True)


@going_on.slip("The parameters of all adapters train. Which one was asked for?")
def all_adapters(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_("lora_" in path or "modules_to_save" in path)


@going_on.slip("Nothing is ever frozen: what required a gradient before still does. What of the base, and of the other adapter?")
def nothing_frozen(model, name):
    for path, p in model.named_parameters():
        if name in path.split("."):
            p.requires_grad_(True)


@going_on.slip("`A` and `B` train, and the adapter's copy of the head does not. What else is the adapter's own?")
def without_the_copy(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(name in path.split(".") and "lora_" in path)


@going_on.slip("Only `B` trains. What else is the adapter's own?")
def b_alone(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(name in path.split(".") and "lora_A" not in path)


@going_on.slip("The other way round: all but this adapter trains. Which side was asked for?")
def the_others(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(name not in path.split("."))


@going_on.slip("Nothing trains. Which parameters are the adapter's own?")
def none_at_all(model, name):
    model.requires_grad_(False)


@going_on.slip("Only the first adapter of the model can train, whatever name is given. Where does `name` come in?")
def whichever_is_active(model, name):
    for path, p in model.named_parameters():
        p.requires_grad_(model.active_adapter in path.split("."))


# ================================================================ tied embeddings

untying = Exercise(
    "untie",
    lesson=LESSON,
    title="One weight with two names",
    signature="untie(model)",
    why="Where input and output share one tensor, whoever writes to one changes the other, a merge among them.",
    points=2,
    minutes=10,
    difficulty=2,
    hints=[
        "A model has `get_output_embeddings` for the layer that makes logits, and `get_input_embeddings` for the table. Is the weight of the one *the* weight of the other?",
        "The new weight has the same numbers, in memory of its own. Does `nn.Parameter(w)` copy anything?",
        "`model.tie_weights()` runs when a model is loaded or resized. What does it read to know whether to tie?",
    ],
)


@untying.cases
def untying_cases(seed):
    rows = [("a model with tied embeddings, trainable", True), ("a model with tied embeddings, frozen", False)]
    return [Case(label, seed=seed + i, trainable=trainable) for i, (label, trainable) in enumerate(rows)]


@untying.observe
def look_untying(answer, case):
    model = copy.deepcopy(llama(case.seed, True))
    model.requires_grad_(case.trainable)
    x = torch.arange(6)[None]
    with torch.no_grad():
        before = model(x).logits
        answer(model)
        after = model(x).logits
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        kept = table.weight.clone()
        head.weight.add_(1.0)
        out = {
            "logits": round_to(after, 4) if after.shape != before.shape or not torch.allclose(after, before, atol=1e-4) else "as before",
            "a change of the output's weight changes the table": not torch.equal(kept, table.weight),
        }
        model.tie_weights()
        out["tied again by `model.tie_weights()`"] = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    out["the configuration says that they are tied"] = bool(model.config.tie_word_embeddings)
    out["the output's weight requires a gradient"] = head.weight.requires_grad
    out["the table requires a gradient"] = table.weight.requires_grad
    return out


def round_to(x, digits):
    return torch.round(x, decimals=digits)


@untying.evidence
def what_is_still_shared(cases, seen, expected):
    """Which of the three ways to notice the tie still does."""
    mine, theirs = seen[0], expected[0]
    odd = [what for what in theirs if what in mine and not isinstance(mine[what], torch.Tensor) and mine[what] != theirs[what]]
    if isinstance(mine.get("logits"), torch.Tensor):
        return "The logits are no longer what they were. Which numbers should the output's own weight begin with?"
    return f"After your function: {odd[0]}: {mine[odd[0]]}. What does that need: other memory, or another word in the configuration?" if odd else None


@untying.solution
def a_clone(model):
    head = model.get_output_embeddings()
    learns = head.weight.requires_grad
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=learns)
    model.config.tie_word_embeddings = False


@untying.solution
def a_new_layer(model):
    old = model.get_output_embeddings()
    new = nn.Linear(old.in_features, old.out_features, bias=False)
    new.weight = nn.Parameter(torch.empty_like(old.weight).copy_(old.weight.detach()))
    new.weight.requires_grad = old.weight.requires_grad
    model.set_output_embeddings(new)
    model.config.tie_word_embeddings = False


@untying.solution
def a_deep_copy(model):
    model.config.tie_word_embeddings = False
    model.get_output_embeddings().weight = copy.deepcopy(model.get_input_embeddings().weight)


def own(model, make):
    head = model.get_output_embeddings()
    head.weight = make(head.weight)


@untying.slip("The configuration says it, and the weight is still one. Who gives the output a weight of its own?")
def only_the_word(model):
    model.config.tie_word_embeddings = False


@untying.slip("The weight is a copy, and the configuration still says that it is tied: at the next loading or resizing it is. Which word is to be changed?")
def only_the_weight(model):
    own(model, lambda w: nn.Parameter(w.detach().clone(), requires_grad=w.requires_grad))


@untying.slip("There are two parameters now, and one memory: `nn.Parameter` copies no numbers. What does?")
def one_memory(model):
    own(model, lambda w: nn.Parameter(w.detach(), requires_grad=w.requires_grad))
    model.config.tie_word_embeddings = False


@untying.slip("The output's weight begins with zeros, and the logits are gone. With which numbers should it begin?")
def from_zero(model):
    own(model, lambda w: nn.Parameter(torch.zeros_like(w), requires_grad=w.requires_grad))
    model.config.tie_word_embeddings = False


@untying.slip("The output's weight is drawn anew, and the logits are others. With which numbers should it begin?")
def drawn_anew(model):
    draw = torch.Generator().manual_seed(1)
    own(model, lambda w: nn.Parameter(torch.randn(w.shape, generator=draw), requires_grad=w.requires_grad))
    model.config.tie_word_embeddings = False


@untying.slip("The output's weight requires a gradient, where it was frozen before. What should become of `requires_grad`?")
def unfrozen(model):
    own(model, lambda w: nn.Parameter(w.detach().clone()))
    model.config.tie_word_embeddings = False


@untying.slip("The output's weight is frozen, where it was to be trained. What should become of `requires_grad`?")
def frozen(model):
    own(model, lambda w: nn.Parameter(w.detach().clone(), requires_grad=False))
    model.config.tie_word_embeddings = False


@untying.slip("A copy of the model is untied, and the one that was given is as it was. Which one will be used?")
def another_model(model):
    a_clone(copy.deepcopy(model))


# ================================================================ several ranks in one process


class Waiting(BaseException):
    """A rank waits for something that is not there yet. Not an Exception: an answer's own `except` lets it through."""


MOST = 64  # messages of one rank, or rounds of all


def side_by_side(work, size, means):
    """[work(rank, means) for each rank]: one after the other. A rank that has to wait is begun anew when others have gone on.

    Each rank must do the same each time; what it was given and what it sent are kept.
    """
    post, done = {}, {}
    while len(done) < size:
        moved = False
        for rank in range(size):
            if rank in done:
                continue
            mine = means(rank, size, post)
            try:
                done[rank] = work(rank, mine)
                moved = True
            except Waiting:
                moved |= mine.new
        if not moved:
            waiting = [str(r) for r in range(size) if r not in done]
            raise Unexpected(
                f"With {size} ranks, rank{'s' * (len(waiting) > 1)} {' and '.join(waiting)} wait{'s' * (len(waiting) == 1)} for ever: "
                "for something that nobody sends, or for a call that not all make. Real processes would hang here."
            )
    return [done[rank] for rank in range(size)]


class Post:
    """What one rank can do: send a tensor, or wait for one."""

    def __init__(self, rank, size, post):
        self.rank, self.size, self.post, self.new, self.sent, self.taken = rank, size, post, False, {}, {}

    def send(self, tensor, to):
        if to not in range(self.size) or to == self.rank:
            raise Unexpected(f"rank {self.rank} of {self.size} sends to rank {to}: there are ranks 0 to {self.size - 1}, and itself is none to send to.")
        box, i = self.post.setdefault((self.rank, to), []), self.sent.get(to, 0)
        if i >= MOST:
            raise Unexpected(f"rank {self.rank} sends more than {MOST} tensors to rank {to}. When is it done?")
        if i == len(box):
            box.append(given(tensor, torch.Tensor, "what you sent").detach().clone())
            self.new = True
        self.sent[to] = i + 1

    def receive(self, source, like):
        box, i = self.post.get((source, self.rank), []), self.taken.get(source, 0)
        if i >= len(box):
            raise Waiting
        if box[i].shape != like.shape:
            raise Unexpected(f"rank {self.rank} expects {tuple(like.shape)} from rank {source}, which sent {tuple(box[i].shape)}.")
        self.taken[source] = i + 1
        return box[i].clone()


class Call:
    """What one rank can do: add a tensor up over all ranks."""

    def __init__(self, rank, size, post):
        self.rank, self.size, self.post, self.new, self.calls = rank, size, post, False, 0

    def all_reduce(self, tensor):
        tensor = given(tensor, torch.Tensor, "what you gave to `all_reduce`").detach()
        call = self.post.setdefault(("call", self.calls), {})
        self.calls += 1
        if self.calls > MOST:
            raise Unexpected(f"rank {self.rank} calls `all_reduce` more than {MOST} times. When is it done?")
        if self.rank not in call:
            call[self.rank], self.new = tensor.clone(), True
        if len({t.shape for t in call.values()}) > 1:
            shapes = ", ".join(f"rank {r} {tuple(t.shape)}" for r, t in sorted(call.items()))
            raise Unexpected(f"In call {self.calls} of `all_reduce` the ranks give tensors of different shapes: {shapes}. Each call is one for all.")
        if len(call) < self.size:
            raise Waiting
        return sum(call[r] for r in range(self.size))


# ================================================================ all-reduce

reducing = Exercise(
    "all-reduce",
    lesson=LESSON,
    title="A sum that everybody has",
    signature="all_reduce(x, rank, size, send, receive)",
    why="This one operation is data-parallel training: each process has a gradient of its own, and all must leave with the same sum.",
    points=3,
    minutes=15,
    difficulty=3,
    hints=[
        "The plainest way: one rank collects, adds up, and sends the sum back to all others.",
        "`receive` waits. If all ranks wait before anybody has sent, they wait for ever: who sends first?",
        "Sums of floats depend on the order. If each rank adds up by itself, all have to add in the same order, 0, 1, 2 ...",
        "`size` may be 1: then there is nobody to send to.",
    ],
)


@reducing.cases
def reducing_cases(seed):
    draw = draws(seed)
    rows = [(2, (5,)), (3, (4, 3)), (1, (3,)), (4, (7,)), (5, (2, 2, 2))]
    return [Case(f"{n} ranks with tensors of shape {shape}", size=n, xs=[draw(*shape) * 10**i for i in range(n)]) for n, shape in rows]


@reducing.observe
def look_reducing(answer, case):
    def work(rank, post):
        x = case.xs[rank].clone()
        y = given(answer(x, rank, case.size, post.send, post.receive), torch.Tensor, "`all_reduce`")
        return y.detach().clone(), torch.equal(x, case.xs[rank])

    sums, kept = zip(*side_by_side(work, case.size, Post))
    alike = all(s.shape == sums[0].shape and torch.equal(s, sums[0]) for s in sums)
    sums = torch.stack(sums) if len({s.shape for s in sums}) == 1 else list(sums)
    return {"sum on each rank": sums, "the same on all ranks, bit for bit": alike, "x is left as it was": all(kept)}


@reducing.evidence
def whose_is_in_it(cases, seen, expected):
    """How many times each rank's tensor is in what the first wrong rank has."""
    what = "sum on each rank"
    for case, mine, theirs in zip(cases, seen, expected):
        a, b = mine.get(what), theirs[what]
        if not isinstance(a, torch.Tensor) or a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-3):
            continue
        rank = next(r for r in range(case.size) if not torch.allclose(a[r], b[r], rtol=1e-4, atol=1e-3))
        columns = torch.stack([x.flatten() for x in case.xs], 1).double()
        if columns.shape[0] < columns.shape[1]:
            return None
        times = torch.linalg.lstsq(columns, a[rank].flatten()[:, None].double()).solution[:, 0].tolist()
        said = ", ".join(f"that of rank {r} {round(t, 2) + 0:g} times" for r, t in enumerate(times))
        return f"With {case.label}, rank {rank} ends with {said}. How often should each be in it?"
    return None


@reducing.solution
def by_one(x, rank, size, send, receive):
    if rank > 0:
        send(x, 0)
        return receive(0, x)
    total = x.clone()
    for other in range(1, size):
        total += receive(other, x)
    for other in range(1, size):
        send(total, other)
    return total


@reducing.solution
def all_to_all(x, rank, size, send, receive):
    for other in range(size):
        if other != rank:
            send(x, other)
    total = torch.zeros_like(x)
    for other in range(size):
        total = total + (x if other == rank else receive(other, x))
    return total


@reducing.solution
def around_the_ring(x, rank, size, send, receive):
    chunks = list(x.flatten().clone().tensor_split(size))
    left, right = (rank - 1) % size, (rank + 1) % size
    for step in range(size - 1):
        send(chunks[(rank - step) % size], right)
        k = (rank - step - 1) % size
        chunks[k] = chunks[k] + receive(left, chunks[k])
    for step in range(size - 1):
        send(chunks[(rank + 1 - step) % size], right)
        k = (rank - step) % size
        chunks[k] = receive(left, chunks[k])
    return torch.cat(chunks).view_as(x)


def gathered(x, rank, size, send, receive):
    """Everybody's tensor, in the order of the ranks."""
    for other in range(size):
        if other != rank:
            send(x, other)
    return [x if other == rank else receive(other, x) for other in range(size)]


@reducing.slip("Each rank adds up in an order of its own, its own tensor first, and the sums differ in the last bits: after many steps the copies of the model are no longer one. In which order can all add?")
def own_first(x, rank, size, send, receive):
    every = gathered(x, rank, size, send, receive)
    total = x.clone()
    for other in range(size):
        if other != rank:
            total += every[other]
    return total


@reducing.slip("This is the mean over the ranks. What was asked for?")
def the_average(x, rank, size, send, receive):
    return sum(gathered(x, rank, size, send, receive)) / size


@reducing.slip("Rank 0 has the sum, and the others still have their own tensor. Who tells them?")
def not_sent_back(x, rank, size, send, receive):
    if rank > 0:
        send(x, 0)
        return x.clone()
    return x + sum(receive(other, x) for other in range(1, size))


@reducing.slip("A rank's own tensor is missing in its sum. Whom does it not hear from?")
def without_its_own(x, rank, size, send, receive):
    every = gathered(x, rank, size, send, receive)
    return sum((every[other] for other in range(size) if other != rank), torch.zeros_like(x))


@reducing.slip("A rank's own tensor comes in twice. How often should each be in the sum?")
def own_twice(x, rank, size, send, receive):
    return x + sum(gathered(x, rank, size, send, receive))


@reducing.slip("Each rank hears from its neighbour alone: for two ranks that is all, for three it is not. What of the others?")
def neighbours(x, rank, size, send, receive):
    if size == 1:
        return x.clone()
    send(x, (rank + 1) % size)
    return x + receive((rank - 1) % size, x)


@reducing.slip("Nothing is sent: each rank keeps its own. Where do the others' come from?")
def nothing_sent(x, rank, size, send, receive):
    return x.clone()


@reducing.slip("Only ranks 0 and 1 are in the sum. How many ranks are there?")
def two_ranks(x, rank, size, send, receive):
    every = gathered(x, rank, size, send, receive)
    return sum(every[:2])


@reducing.slip("The largest is taken, place by place. Which operation was asked for?")
def the_maximum(x, rank, size, send, receive):
    return torch.stack(gathered(x, rank, size, send, receive)).amax(0)


@reducing.slip("The sum is right, and written into `x`: what the rank had is gone. Which operation makes a new tensor?")
def into_x(x, rank, size, send, receive):
    return x.copy_(by_one(x.clone(), rank, size, send, receive))


@reducing.slip("All ranks wait before anybody has sent: they wait for ever. Who goes first?")
def receives_first(x, rank, size, send, receive):
    total = x.clone()
    for other in range(size):
        if other != rank:
            total += receive(other, x)
    for other in range(size):
        if other != rank:
            send(x, other)
    return total


# ================================================================ the mean over all labels

averaging = Exercise(
    "mean-over-labels",
    lesson=LESSON,
    title="One mean over all labels",
    signature="mean_gradients(gradients, labels, all_reduce)",
    why="Batches of text are never equally long. What all processes average decides whether two of them train as one does.",
    points=3,
    minutes=12,
    difficulty=2,
    hints=[
        "The gradient of a sum of losses is the sum of the gradients, whoever computed them.",
        "What does the sum of all gradients have to be divided by? No rank knows that number alone.",
        "`all_reduce` takes a tensor; a number can be made one. Every rank has to call it equally often, a rank without a single label too.",
    ],
)


@averaging.cases
def averaging_cases(seed):
    draw, cases = draws(seed), []
    for counts in ((5, 37), (12, 12), (17, 25, 3), (8, 0), (9,)):
        shapes = [(3, 2), (4,), (2, 2)]
        gradients = [[draw(*s) * n for s in shapes] for n in counts]
        cases.append(Case(f"{' and '.join(map(str, counts))} labels on {len(counts)} rank{'s' * (len(counts) > 1)}", counts=counts, gradients=gradients))
    return cases


@averaging.observe
def look_averaging(answer, case):
    def work(rank, post):
        mine = [g.clone() for g in case.gradients[rank]]
        out = answer(mine, case.counts[rank], post.all_reduce)
        out = list(given(out, (list, tuple), "`mean_gradients`"))
        if len(out) != len(mine):
            raise Unexpected(f"`mean_gradients` gave {len(out)} tensors for {len(mine)} gradients.")
        return [given(g, torch.Tensor, "`mean_gradients` in its list").detach().clone() for g in out]

    ranks = side_by_side(work, len(case.counts), Call)
    return {f"gradient {i} on each rank": torch.stack([r[i] for r in ranks]) for i in range(len(ranks[0]))}


@averaging.evidence
def weight_of_each_rank(cases, seen, expected):
    """How much one label of each rank weighs in the answer's first gradient, beside what it should."""
    for case, mine, theirs in zip(cases, seen, expected):
        a, b = mine.get("gradient 0 on each rank"), theirs["gradient 0 on each rank"]
        if not isinstance(a, torch.Tensor) or a.shape != b.shape or torch.allclose(a, b, rtol=1e-4, atol=1e-4) or not a.isfinite().all():
            continue
        columns = torch.stack([g[0].flatten() for g in case.gradients], 1).double()
        if 0 in case.counts:
            continue
        times = torch.linalg.lstsq(columns, a[0].flatten()[:, None].double()).solution[:, 0].tolist()
        said = "; ".join(f"{t:.4f} times that of rank {r}" for r, t in enumerate(times))
        return f"With {case.label}, what rank 0 gets is made of the sums so: {said}. There are {sum(case.counts)} labels in all: how much should each sum count?"
    return None


@averaging.solution
def sums_and_counts(gradients, labels, all_reduce):
    total = all_reduce(torch.tensor(float(labels)))
    return [all_reduce(g) / total for g in gradients]


@averaging.solution
def in_one_call(gradients, labels, all_reduce):
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([float(labels)])])
    flat = all_reduce(flat)
    out, at = [], 0
    for g in gradients:
        out.append(flat[at : at + g.numel()].view(g.shape) / flat[-1])
        at += g.numel()
    return out


@averaging.solution
def divided_before(gradients, labels, all_reduce):
    count = all_reduce(torch.ones(1) * labels).item()
    result = []
    for g in gradients:
        result.append(all_reduce(g * (1 / count)))
    return result


def ranks_of(all_reduce):
    return all_reduce(torch.ones(()))


@averaging.slip("Each rank takes its own mean, and the means are averaged: every rank has the same say, however few labels it has. How much should one label count?")
def mean_of_means(gradients, labels, all_reduce):
    size = ranks_of(all_reduce)
    return [all_reduce(g / labels) / size for g in gradients]


@averaging.slip("Each rank's mean counts alike, and a rank without labels counts as nothing: it is still a mean of means. How much should one label count?")
def mean_of_means_without_empty_ones(gradients, labels, all_reduce):
    size = ranks_of(all_reduce)
    return [all_reduce(g / max(labels, 1)) / size for g in gradients]


@averaging.slip("The means are added up and not divided by anything more. What are they to be weighted by?")
def sum_of_means(gradients, labels, all_reduce):
    return [all_reduce(g / max(labels, 1)) for g in gradients]


@averaging.slip("The sums are added up and not divided. By how many labels?")
def sums_alone(gradients, labels, all_reduce):
    return [all_reduce(g) for g in gradients]


@averaging.slip("The sum is divided by the number of ranks. How many labels are there?")
def by_ranks(gradients, labels, all_reduce):
    size = ranks_of(all_reduce)
    return [all_reduce(g) / size for g in gradients]


@averaging.slip("Each rank divides the sum by its own number of labels, and they end with different gradients. Which number is the same for all?")
def by_own_labels(gradients, labels, all_reduce):
    return [all_reduce(g) / max(labels, 1) for g in gradients]


@averaging.slip("The sum is divided by the labels, and by the number of ranks once more. Which of the two was it?")
def by_both(gradients, labels, all_reduce):
    size, total = ranks_of(all_reduce), all_reduce(torch.tensor(float(labels)))
    return [all_reduce(g) / total / size for g in gradients]


@averaging.slip("Nothing is shared: each rank keeps its own mean. What do the others know?")
def own_mean(gradients, labels, all_reduce):
    return [g / max(labels, 1) for g in gradients]


@averaging.slip("The labels are added up, the gradients are not: each rank has a part of the whole. Which of the two has to be summed?")
def counts_alone(gradients, labels, all_reduce):
    total = all_reduce(torch.tensor(float(labels)))
    return [g / total for g in gradients]


@averaging.slip("Each rank multiplies its sum by its number of labels first: long batches count more than their labels. What is in the sum already?")
def weighted_twice(gradients, labels, all_reduce):
    total = all_reduce(torch.tensor(float(labels)))
    return [all_reduce(g * labels) / total for g in gradients]


@averaging.slip("A rank without labels leaves before the others are done, and they wait for it for ever. What does it have to call all the same?")
def empty_rank_leaves(gradients, labels, all_reduce):
    if labels == 0:
        return [torch.zeros_like(g) for g in gradients]
    total = all_reduce(torch.tensor(float(labels)))
    return [all_reduce(g) / total for g in gradients]


# ================================================================ bytes of a step

sending = Exercise(
    "bytes-a-step",
    lesson=LESSON,
    title="What a step sends",
    signature="bytes_a_step(frozen, trainable, size)",
    why="An adapter has few gradients to send. Whether that is most of what a step sends depends on where the weights lie.",
    points=2,
    minutes=12,
    difficulty=2,
    hints=[
        "In a ring each rank passes on a tensor of n numbers in `size` pieces: `size - 1` of them to add up, and as many again to hand the sums around.",
        "A gather, or a sum of which each keeps its own part, is one half of that: `size - 1` pieces.",
        "Which weights does a layer need to compute, trainable or not? Which gradients are there?",
    ],
)


@sending.cases
def sending_cases(seed):
    rows = some(seed, 10, 400, 8)
    cases = [(64 * rows[i], 16 * rows[i + 1], size) for i, size in ((0, 2), (2, 4), (4, 8), (6, 3))] + [(0, 480 * rows[0], 2)]
    return [Case(f"{f:,} frozen and {t:,} trainable parameters, {n} processes", frozen=f, trainable=t, size=n) for f, t, n in cases]


@sending.observe
def look_sending(answer, case):
    value = given(answer(case.frozen, case.trainable, case.size), (tuple, list), "`bytes_a_step`")
    if len(value) != 2:
        raise Unexpected(f"`bytes_a_step` gave {len(value)} things; expected two: bytes with a whole model everywhere, bytes with a model in parts.")
    whole_model, parts = (float(v) for v in value)
    return {"model everywhere": torch.tensor(whole_model), "model in parts": torch.tensor(parts)}


@sending.term("model everywhere")
def everywhere_terms(case):
    once = 4 * (case.size - 1) / case.size * case.trainable
    return {"trainable parameters, once around": once, "trainable parameters, around again": once}


@sending.term("model in parts")
def parts_terms(case):
    once = 4 * (case.size - 1) / case.size
    all_of_it = case.frozen + case.trainable
    return {"parameters, forward": once * all_of_it, "parameters, backward": once * all_of_it, "gradients": once * case.trainable}


@sending.evidence
def how_often_all_of_it(cases, seen, expected):
    """The first wrong number of bytes, beside those of all the tensors that are in question."""
    for what, of in (("model everywhere", "trainable parameters"), ("model in parts", "parameters")):
        for case, mine, theirs in zip(cases, seen, expected):
            if what in mine and abs(float(mine[what]) - float(theirs[what])) > 1e-4 * float(theirs[what]):
                whole = 4 * (case.trainable + (case.frozen if of == "parameters" else 0))
                return (
                    f"{what.capitalize()}, {case.size} processes: all {of} have {whole:,} bytes, and by your function each process sends {float(mine[what]) / whole:.3g} "
                    "times as much. What of them goes out in one round, and how many rounds are there?"
                )
    return None


@sending.solution
def by_formula(frozen, trainable, size):
    around = 4 * (size - 1) / size
    return 2 * around * trainable, around * (2 * (frozen + trainable) + trainable)


@sending.solution
def piece_by_piece(frozen, trainable, size):
    def passes(numbers):
        return sum(4 * numbers / size for _ in range(size - 1))

    gather = passes(frozen + trainable)
    scatter = passes(trainable)
    return passes(trainable) + passes(trainable), gather + gather + scatter


@sending.solution
def as_sums(frozen, trainable, size):
    piece = trainable * 4 / size
    everywhere = piece * (2 * size - 2)
    return [everywhere, everywhere * 1.5 + frozen * 4 / size * 2 * (size - 1)]


def sent(frozen, trainable, size, ddp=(0, 2), fsdp=(2, 3), share=None, width=4):
    """Bytes with so many rounds of (frozen, trainable), for the model everywhere and in parts."""
    share = (size - 1) / size if share is None else share
    return tuple(width * share * (a * frozen + b * trainable) for a, b in (ddp, fsdp))


@sending.slip("With the model everywhere, the sums are not handed around: each rank has a part of them. How many rounds does an all-reduce take?")
def one_round(frozen, trainable, size):
    return sent(frozen, trainable, size, ddp=(0, 1))


@sending.slip("With the model everywhere, frozen weights are counted as if they had a gradient. Which have one?")
def frozen_gradients(frozen, trainable, size):
    return sent(frozen, trainable, size, ddp=(2, 2))


@sending.slip("With the model in parts, only trainable weights are fetched. What does a layer need to compute?")
def trainable_fetched(frozen, trainable, size):
    return sent(frozen, trainable, size, fsdp=(0, 3))


@sending.slip("With the model in parts, the weights are fetched once. They are let go after the forward pass: who needs them again?")
def fetched_once(frozen, trainable, size):
    return sent(frozen, trainable, size, fsdp=(1, 2))


@sending.slip("With the model in parts, the gradients are missing. What else is sent, apart from the weights?")
def no_gradients(frozen, trainable, size):
    return sent(frozen, trainable, size, fsdp=(2, 2))


@sending.slip("With the model in parts, frozen weights are counted as if they had a gradient. Which have one?")
def all_scattered(frozen, trainable, size):
    return sent(frozen, trainable, size, fsdp=(3, 3))


@sending.slip("With the model in parts, the gradients go around twice. Who needs the sum of a part that it does not keep?")
def summed_everywhere(frozen, trainable, size):
    return sent(frozen, trainable, size, fsdp=(2, 4))


@sending.slip("A rank's own piece is counted as sent. Of how many pieces are there, how many go out in a round?")
def own_piece_too(frozen, trainable, size):
    return sent(frozen, trainable, size, share=1)


@sending.slip("All of a tensor goes to each of the others. In a ring, how large is what is passed on at a time?")
def to_everyone(frozen, trainable, size):
    return sent(frozen, trainable, size, share=size - 1)


@sending.slip("These are numbers, not bytes. How many bytes has a float32?")
def numbers_not_bytes(frozen, trainable, size):
    return sent(frozen, trainable, size, width=1)


@sending.slip("These are the bytes of 16-bit numbers. How many bytes has a float32?")
def half_precision(frozen, trainable, size):
    return sent(frozen, trainable, size, width=2)
