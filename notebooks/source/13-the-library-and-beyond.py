# %% [markdown]
# # 13 The library, and beyond one machine
#
# **120 minutes** of reading and doing, **90 seconds** of computing on two quiet cores. Before this: lesson 03; lesson 08 for what a method
# is in this course.
#
# After this page you will be able to train an adapter with `datasets`, `transformers.Trainer` and `peft`, to mend the errors that most people
# meet there, and to say what several processes send each other. You will have written an all-reduce, found out when two processes do not train
# as one does, and mended it.

# %%
import tempfile
import textwrap
import warnings

import datasets
import peft
import torch
import torch.distributed as dist
import transformers
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import peftlab as pl
from peftlab.classroom import check, predict
from peftlab.lab import catalogue, figures, polyglot, processes
from peftlab.lab.sweeps import interval
from peftlab.lab.training import answers
from peftlab.methods import LoRA

# peft asks transformers by a name that will change, and the Hub for a base of ours
asks_in_vain = ("Could not find a config file", "Unable to fetch remote file")
for beginning in ("`is_gradient_checkpointing`", *asks_in_vain):
    warnings.filterwarnings("ignore", beginning)
datasets.disable_progress_bars()
transformers.utils.logging.disable_progress_bar()
here = tempfile.TemporaryDirectory()  # files of this page; gone when its kernel stops

# %% [markdown]
# ## Predict

# %%
predict("loaded-adapter-trains")

# %% [markdown]
# ## The idea
#
# At work few people write a training loop. Three libraries share the work, and each has a contract with the next:
#
# - `datasets` keeps rows, with columns of any name;
# - `peft` puts an adapter into a model, and saves what *it* put there;
# - `Trainer` draws batches, hands the model the columns whose names the model asks for, and lets the optimizer move whatever requires a gradient.
#
# The errors on this page live where two of them meet: a column that has no taker, a layer that has no match, a head that nobody saves, a parameter that
# nobody trains, a weight that has two owners. The second half adds one more partner: other processes.

# %% [markdown]
# ## Lesson 03 with the library
#
# Italian once more, on polyglot-350k. Rows from `datasets`, a LoRA from `peft`, and `Trainer` on top.

# %%
data = polyglot.dataset("it")
print(data)
print(data[342])


def model_of_the_library(**more):
    base, _ = pl.lab.load_base("polyglot-350k")
    settings = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    return peft.get_peft_model(base, peft.LoraConfig(**settings | more))


def trainer(model, rows, collate=None, steps=80, **more):
    """A `Trainer` for so many steps on the processor, without any output of its own."""
    how = {"max_steps": steps, "per_device_train_batch_size": 16, "learning_rate": 0.01}
    how |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "seed": 0}
    quiet = {"disable_tqdm": True, "use_cpu": True, "dataloader_pin_memory": False}
    args = TrainingArguments(f"{here.name}/runs", **(how | quiet | more))
    made = Trainer(model, args, train_dataset=rows, data_collator=collate)
    made.remove_callback(PrinterCallback)
    return made


def losses(trained):
    return [row["loss"] for row in trained.state.log_history if "loss" in row]


def told(error):
    """An error's kind and words, in lines that fit the page."""
    return textwrap.fill(f"{type(error).__name__}: {error}", 90)


# %% [markdown]
# Give these rows to `Trainer` as they are:

# %% tags=["nbval-ignore-output"]
try:
    trainer(model_of_the_library(), data).train()
except ValueError as error:
    print(told(error))
    assert "No columns" in str(error), "another error than the one this cell is about"
else:
    raise AssertionError("raw rows are expected to be refused")

# %% [markdown]
# `Trainer` reads the *signature* of the model's `forward` and removes every column that has another name. Of `prompt` and `answer` the model knows nothing, and no
# column is left. (Had a single name fitted, the others would have gone without a word.) There are two ways out: rows that have the right columns, or
# `remove_unused_columns=False` and a function of your own that makes batches, as this course's `answers` is.
#
# ### 1. Rows as Trainer wants them
#
# {{trainer-features}}
#
# Write `features(prompt, answer, eos)`, for one row: `prompt` and `answer` are lists of token ids, `eos` is the id of the end. Return a dict with `input_ids`,
# `attention_mask` and `labels`, three lists of one length. Only the answer and the end are learnt.


# %%
def features(prompt, answer, eos):
    """{"input_ids": [...], "attention_mask": [...], "labels": [...]} of one row."""
    ### BEGIN SOLUTION
    ids = [*prompt, *answer, eos]
    labels = [-100] * len(prompt) + [*answer, eos]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}
    ### END SOLUTION


# %%
check("trainer-features", features)

# %% [markdown]
# With `map` every row goes through it once. `DataCollatorForSeq2Seq` then pads the rows of a batch to one length, labels with -100. Labels are the one thing of
# which neither `Trainer` nor the model says anything while they are wrong in a way that fits: so look at one row before you train.

# %%
_, tokenizer = pl.lab.load_base("polyglot-350k")


def to_features(row):
    prompt, answer = (
        tokenizer(row[k], add_special_tokens=False)["input_ids"]
        for k in ("prompt", "answer")
    )
    return features(prompt, answer, tokenizer.eos_token_id)


rows = [to_features(row) for row in data]
one = rows[342]
print("read: ", tokenizer.decode(one["input_ids"]))
learnt = [token for token in one["labels"] if token != -100]
print("learnt:", tokenizer.decode(learnt))
expected = data[342]["answer"] + tokenizer.eos_token
assert tokenizer.decode(learnt) == expected, "look at the labels of `features`"

# %% tags=["heavy"]
featured = data.map(to_features, remove_columns=data.column_names)
collate = DataCollatorForSeq2Seq(tokenizer)
print(featured)

# %% [markdown]
# Now the training, twice: `peft`'s model, and a base with `pl.attach` of this course, from the same `A`. And a control: the same once more from another
# `A`, to see how far apart two runs are that differ at all. `Trainer` asks no model how its adapter came there.


# %% tags=["heavy"]
def model_of_the_course(seed=0):
    base, _ = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(seed)
    return pl.attach(base, LoRA, "all-linear", r=8, lora_alpha=16)


ours, other, theirs = (
    model_of_the_course(),
    model_of_the_course(1),
    model_of_the_library(),
)
start = {n: p for n, p in ours.named_parameters() if "lora_" in n}
with torch.no_grad():
    for name, p in theirs.named_parameters():
        if ".lora_" in name:
            path, which = name.removeprefix("base_model.model.").split(".lora_")
            p.copy_(start[f"{path}.adapters.default.lora_{which[0]}"])

runs = {}
for name, model in {"peft": theirs, "attach": ours, "another A": other}.items():
    running = trainer(model, featured, collate)
    running.train()
    runs[name] = losses(running)


def gap(name):
    return max(abs(a - b) for a, b in zip(runs["peft"], runs[name]))


same = gap("attach") < 1e-3
print("every loss of peft and of attach agrees to one in a thousand:", same)
assert same, f"the losses differ by {gap('attach'):.1e}: did both start from the same A?"
assert gap("another A") > 20 * gap("attach"), (
    "another start is expected to differ by more"
)

# %% tags=["nbval-ignore-output", "heavy"]
for name, values in runs.items():
    print(
        f"{name:10} loss {values[0]:.3f} at the first step, {values[-1]:.4f} at the last"
    )
print(f"largest difference to another A: {gap('another A'):.3f}")
accuracy = polyglot.accuracy(ours.eval(), tokenizer, "it")
print(f"Italian, numbers it has not seen: {accuracy:.1%}")
assert accuracy > 0.5, "it is expected to have learnt Italian: look at `features`"

# %% [markdown]
# Equal to rounding, and two runs that differ only in the start are much further apart. What you built in lesson 03 runs under `Trainer` as the library's own does.
#
# One thing differs: what a checkpoint holds. For `peft`'s models `Trainer` saves the adapter alone; for any other model the whole of it. The callback
# `pl.lab.SaveAdapter()` puts the adapter beside it, in a folder that `pl.load` and `peft` read.

# %% tags=["heavy"]
saving = trainer(ours, featured, collate, steps=2, save_strategy="steps", save_steps=2)
saving.add_callback(pl.lab.SaveAdapter())
saving.train()
folder = f"{saving.args.output_dir}/checkpoint-2/adapters/default"
elsewhere = peft.PeftModel.from_pretrained(pl.lab.load_base("polyglot-350k")[0], folder)
question = tokenizer(["<it>342=", "<it>777="], return_tensors="pt")
with torch.no_grad():
    here_, there = (m.eval()(**question).logits for m in (ours, elsewhere))
off = (here_ - there).abs().max().item()
print("the checkpoint of `attach`, loaded by peft, gives the same logits:", off < 1e-3)
assert off < 1e-3, f"a logit differs by {off:.1e}"

# %% [markdown]
# ### All of its methods
#
# The library's methods, read from the library, and beside each what this course has of it, read from this course's classes: the name here, and the equation.

# %%
types = [kind.value for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING]
course = {kind: [] for kind in types}
for name, method in catalogue.every().items():
    if method.in_peft.peft_type in course:
        course[method.in_peft.peft_type].append((name, catalogue.equation(method)))
for kind, known in course.items():
    known.sort(key=lambda pair: pair[0].upper() != kind)  # its namesake first
    first = known[0][1] if known else "-"
    shown = textwrap.shorten(first, 60, placeholder=" ...")
    print(f"{kind:24} {', '.join(name for name, _ in known) or '-':28} {shown}")
here_too = [kind for kind, known in course.items() if known]
print(f"\n{len(types)} methods in peft {peft.__version__}; {len(here_too)} of them here")
assert len(types) > 25 and len(here_too) > 25, "more than 25, as is said of it"

# %% [markdown]
# *It has more than 25 methods*, it is said of the library (C31): that is true, and out of date. For most of them lesson 08's sentence is enough: before and after a frozen layer.
# Those without a name beside them this course has not built, and says nothing of.
#
# ## Errors, met on purpose
#
# ### 2. Targets that match nothing
#
# On BERT the layers of attention are called `query` and `value`, on this model `q_proj` and `v_proj`. Four ways to name them wrongly:

# %% tags=["nbval-ignore-output"]
said = []
for targets in (
    ["query", "value"],
    "q_proj,v_proj",
    [r".*\.q_proj"],
    ["q_proj", "value"],
):
    try:
        model = model_of_the_library(target_modules=targets)
    except ValueError as error:
        said.append(told(error))
        print(said[-1], end="\n\n")
    else:
        trained, _ = model.get_nb_trainable_parameters()
        print(f"{targets}: no error, and {trained:,} trainable parameters")
both_names, _ = model_of_the_library(
    target_modules=["q_proj", "v_proj"]
).get_nb_trainable_parameters()
print(f"['q_proj', 'v_proj'] has {both_names:,}")
assert len(said) == 3, "three of the four are expected to be refused"
assert trained == both_names / 2, "and the fourth to be half of an adapter"

# %% [markdown]
# Three are refused, with the words that you will see again. The fourth is the trap: *one* of its two names exists, so there is no error, and the adapter is half of what was
# meant. `pl.attach` refuses that one too:

# %%
try:
    pl.attach(pl.lab.load_base("polyglot-350k")[0], LoRA, ["q_proj", "value"])
except ValueError as error:
    print(told(error)[:90], "...")
else:
    raise AssertionError("a target that matches nothing is expected to be refused")

# %% [markdown]
# {{target-hits}}
#
# Write `hits(names, target_modules)`, which says before training what each entry does. `names` are the names of a model's layers. `target_modules` is a *list* of endings: an entry hits the layer of that
# very name, and those whose name ends in a dot and the entry. Or it is a *string*: then it is one regular expression for the whole name. Return a dict from each entry
# (or from the string) to the list of names that it hits.


# %%
def hits(names, target_modules):
    """{entry: [names that it hits]}; for a string, {the string: [names]}."""
    ### BEGIN SOLUTION
    import re

    if isinstance(target_modules, str):
        return {target_modules: [n for n in names if re.fullmatch(target_modules, n)]}
    return {
        end: [n for n in names if n == end or n.endswith("." + end)]
        for end in target_modules
    }
    ### END SOLUTION


# %%
check("target-hits", hits)

# %% [markdown]
# Is this the library's rule? Ask it which layers it adapted.

# %%
base, _ = pl.lab.load_base("polyglot-350k")
names = [name for name, _ in base.named_modules() if name]
for targets in (
    ["q_proj", "value"],
    ["self_attn.v_proj", "lm_head"],
    r".*\.[01]\.self_attn\.(q|v)_proj",
):
    found = hits(names, targets)
    adapted = model_of_the_library(target_modules=targets).targeted_module_names
    mine = {name for each in found.values() for name in each}
    assert mine == set(adapted), f"{targets}: {mine ^ set(adapted)}"
    print({entry: len(each) for entry, each in found.items()}, "as the library does")

# %% [markdown]
# An entry with a zero behind it is a name to look up. One line of this kind before each training would have spared many an evening.
#
# ### 3. A head that is forgotten
#
# A classifier is a model without its old output layer, and a new **head**, which is drawn at random. Is a number written in Spanish or in Italian? LoRA, and twenty-five
# steps, and a file. Once as most people write it, and once with one word more. Neither run complains.


# %%
def classifier():
    """polyglot-350k under a head for two classes, which is another one each time."""
    model = LlamaForSequenceClassification(base.config)
    model.model.load_state_dict(base.model.state_dict())
    return model


def for_classes(rows):
    batch = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return dict(batch) | {"labels": torch.tensor([row["label"] for row in rows])}


def in_two_languages(split):
    """Rows with `text` and `label`, half of them Spanish, half Italian."""
    return [
        {"text": row["answer"], "label": label}
        for label, language in enumerate(("es", "it"))
        for row in polyglot.dataset(language, split)
    ]


@torch.no_grad()
def share_right(model, rows):
    batch = for_classes(rows)
    labels = batch.pop("labels")
    return (model.eval()(**batch).logits.argmax(-1) == labels).float().mean().item()


# %% tags=["heavy"]
seen_before, unseen = in_two_languages("train"), in_two_languages("test")
raters, rated = {}, {}
for name, copies in {"adapter alone": None, "with modules_to_save": ["score"]}.items():
    torch.manual_seed(0)
    where = r".*\.layers\..*_proj"  # all-linear would take the head for one of them
    settings = {"r": 8, "target_modules": where, "modules_to_save": copies}
    raters[name] = peft.get_peft_model(classifier(), peft.LoraConfig(**settings))
    how = {"steps": 25, "remove_unused_columns": False}
    trainer(raters[name], seen_before, for_classes, **how).train()
    raters[name].save_pretrained(f"{here.name}/{name}")
    rated[name] = [share_right(raters[name], unseen)]

# %% [markdown]
# Now load each file onto a fresh base, six times.

# %% tags=["nbval-ignore-output", "heavy"]
for name in raters:
    for seed in range(1, 7):
        torch.manual_seed(seed)
        again = peft.PeftModel.from_pretrained(classifier(), f"{here.name}/{name}")
        rated[name].append(share_right(again, unseen))
    print(f"{name:21} trained {rated[name][0]:.1%}, loaded", end=" ")
    print(*(f"{share:.1%}" for share in rated[name][1:]))
assert min(first for first, *_ in rated.values()) > 0.8, "both are to learn it"
assert len(set(rated["with modules_to_save"])) == 1, "with its head it is to come back"
alone = rated["adapter alone"]
assert min(alone[1:]) < alone[0] - 0.1, "without it, another head answers"

# %% [markdown]
# No error, no warning, and another accuracy at each loading: that is the sign. Some loadings look right, and in others most answers are wrong. With two classes a head that was drawn at random is a coin:
# the adapter learnt to move Spanish and Italian apart, and which side of the new head each of them lands on is chance. The old head was neither trained nor saved: the library
# freezes what it does not know, and a fresh base draws another. With `modules_to_save` the head is trained as a copy, and goes along. A `task_type="SEQ_CLS"` does the same, by
# guessing the head's name.
#
# So a single accuracy after loading proves nothing: the coin may have fallen well. What does not depend on luck is a comparison of the outputs themselves.
#
# {{round-trip}}
#
# Write `round_trip(model, x, save, fresh, load)`: the largest difference, a number, between what the trained `model` gives for `x` and what comes back gives.
# `save(model)` returns a file, `fresh()` a new base, and `load(base, file)` the base with the file on it. Both compared in evaluation mode.


# %%
def round_trip(model, x, save, fresh, load):
    """The largest absolute difference of the outputs, a number."""
    ### BEGIN SOLUTION
    again = load(fresh(), save(model))
    model.eval()
    again.eval()
    with torch.no_grad():
        return (model(x) - again(x)).abs().max().item()
    ### END SOLUTION


# %%
check("round-trip", round_trip)


# %% tags=["heavy"]
class Logits(torch.nn.Module):
    """A classifier that is called with token ids alone, and gives logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(input_ids=x).logits


def save(model):
    model.model.save_pretrained(f"{here.name}/back")
    return f"{here.name}/back"


def load(base, file):
    return Logits(peft.PeftModel.from_pretrained(base, file))


x = for_classes(unseen[:4])
for name, model in raters.items():
    off = round_trip(Logits(model), x["input_ids"], save, classifier, load)
    print(f"{name:21} comes back as it was:", off < 1e-4)
    assert (off < 1e-4) == (name != "adapter alone"), f"a logit differs by {off:.3g}"

# %% [markdown]
# ### 4. Loaded, and nothing trains
#
# Back to what you predicted. The Italian adapter, saved, loaded, and given to `Trainer` again.

# %% tags=["heavy"]
theirs.save_pretrained(f"{here.name}/italian")
fresh, _ = pl.lab.load_base("polyglot-350k")
loaded = peft.PeftModel.from_pretrained(fresh, f"{here.name}/italian")
print("trainable parameters, all parameters:", loaded.get_nb_trainable_parameters())
try:
    trainer(loaded, featured, collate, steps=2).train()
except RuntimeError as error:
    print(told(error))
    assert "does not require grad" in str(error), "another error than the one meant here"
else:
    raise AssertionError("a loaded adapter is expected not to train")

# %% [markdown]
# Nothing in these words speaks of adapters: the loss depends on nothing that may change. Whoever trains a head beside the adapter does not even get the error; the head trains, the adapter does not.
#
# {{trainable-only}}
#
# Write `trainable_only(model, name)`: of all parameters of a model of `peft` exactly those of the adapter `name` require a gradient afterwards. Their names have the adapter's
# own name as one of their parts: `...q_proj.lora_A.it.weight`, `...lm_head.modules_to_save.it.weight`.


# %%
def trainable_only(model, name):
    """Nothing is returned: the model's parameters are set."""
    ### BEGIN SOLUTION
    for path, p in model.named_parameters():
        p.requires_grad_(name in path.split("."))
    ### END SOLUTION


# %%
check("trainable-only", trainable_only)

# %% [markdown]
# At loading `is_trainable=True` does this. But is training *further* the same as training *on*? A run of 20 steps; the same stopped at 10 and resumed from the checkpoint; and an
# adapter loaded from that checkpoint, made trainable by your function, in a new run.


# %% tags=["heavy"]
def twenty(model, resume=None):
    how = {"save_strategy": "steps", "save_steps": 10}
    running = trainer(model, featured, collate, steps=20, **how)
    running.train(resume_from_checkpoint=resume)
    return losses(running)


torch.manual_seed(0)
through = twenty(model_of_the_library())
checkpoint = f"{here.name}/runs/checkpoint-10"
torch.manual_seed(1)
resumed = twenty(model_of_the_library(), checkpoint)
fresh, _ = pl.lab.load_base("polyglot-350k")
loaded = peft.PeftModel.from_pretrained(fresh, checkpoint)
trainable_only(loaded, "default")
anew = twenty(loaded)
off = max(abs(a - b) for a, b in zip(through[10:], resumed[-10:]))
print("resumed, the losses are those of the run that was not stopped:", off < 1e-3)
assert off < 1e-3, f"a loss differs by {off:.1e}"

# %% tags=["nbval-ignore-output", "heavy"]
for name, values in {"not stopped": through[10:], "loaded": anew[:10]}.items():
    print(f"{name:12} steps 11 to 14:", *(f"{value:.3f}" for value in values[:4]))
apart = max(abs(a - b) for a, b in zip(through[10:], anew[:10]))
print(f"largest difference over ten steps: {apart:.3f}")
assert apart > 10 * off, "a new run is expected to be another one"

# %% [markdown]
# From the checkpoint `Trainer` takes more than the adapter: the optimizer's state, the place in the schedule, the order of the rows, the random numbers. From the
# adapter alone a *new* run begins where the old one stood, at the full learning rate, and its losses are others. Both are legitimate; only the first is a continuation.
#
# ### 5. One weight with two names
#
# In many models the table of embeddings and the output layer are one tensor, **tied embeddings**. Put a LoRA on the output layer, and merge. Nobody touched the table.

# %%
talker, talk = pl.lab.load_base("smollm2-135m")
asked = talk(["The capital of France is"], return_tensors="pt")


@torch.no_grad()
def merge_gap(model, target):
    """How far the logits move by merging, as a share of their norm."""
    config = peft.LoraConfig(r=4, target_modules=[target])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adapted = peft.get_peft_model(model, config).eval()
        draw = torch.Generator().manual_seed(0)
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=draw))
        on = adapted(**asked).logits
        merged = adapted.merge_and_unload()
    about = [str(w.message) for w in caught if "tie_word_embeddings" in str(w.message)]
    off = (merged(**asked).logits - on).norm() / on.norm()
    return off.item(), about[-1].split(". For example")[0] if about else "no warning"


# %% tags=["heavy"]
for target in ("q_proj", "lm_head"):
    talker, _ = pl.lab.load_base("smollm2-135m")
    off, warning = merge_gap(talker, target)
    print(f"{target}: merged, the logits have moved: {off > 1e-3}")
    print(textwrap.fill(warning, 90), end="\n\n")
    assert (off > 1e-3) == (target == "lm_head"), f"{target}: {off:.1e}"

# %% [markdown]
# The merge wrote into the output's weight, which is the table too, so the model now *reads* other embeddings. The control, a merge into a layer of its own, moves nothing.
#
# {{untie}}
#
# Write `untie(model)`, which changes the model: its output layer gets a weight of its own with the same numbers, frozen or not as it was, and the configuration no longer
# says that they are tied (`model.config.tie_word_embeddings`), else the next loading ties them again. The logits stay what they were.


# %%
def untie(model):
    """Nothing is returned: the model is changed."""
    ### BEGIN SOLUTION
    head = model.get_output_embeddings()
    learns = head.weight.requires_grad
    own = head.weight.detach().clone()
    head.weight = torch.nn.Parameter(own, requires_grad=learns)
    model.config.tie_word_embeddings = False
    ### END SOLUTION


# %%
check("untie", untie)

# %% tags=["heavy"]
talker, _ = pl.lab.load_base("smollm2-135m")
before = talker.num_parameters()
untie(talker)
more = talker.num_parameters() - before
off, warning = merge_gap(talker, "lm_head")
print(f"untied and merged, the logits have moved: {off > 1e-3}; {warning}")
print(f"the price: {more:,} parameters more, {more / before:.0%} of the model")
assert off < 1e-3, f"merging moves the logits by {off:.1e}: is the memory still one?"

# %% [markdown]
# The price is why such weights are tied: in a small model the table is a good part of all there is. Without merging nothing has to be untied.
#
# ## Two processes
#
# From here on a model is trained by several processes at once. Each holds a copy of the model, called a **rank** after its number (not to be mixed up with the
# rank of a matrix), and computes the gradient of its own part of a batch. Then they talk, so that all take the same step: **data parallelism**.

# %%
predict("unequal-labels")

# %% tags=["hide-source"]
figures.show(
    figures.weight_of_a_label([5, 37]),
    alt="One bar for each of 42 labels. In the average of two means the 5 labels of the short half weigh a tenth each, the 37 of the long half little more than a "
    "hundredth. A dotted line shows the weight in one mean over all, the same for each.",
)

# %% [markdown]
# The picture answers it: by how much a label counts depends on who its neighbours are. As formulas, what one process computes and what two make of it that average their means:
#
# $$g = \frac{\sum_k \sum_i g_{ki}}{\sum_k n_k} \qquad\qquad \bar g = \frac{1}{K} \sum_k \frac{1}{n_k} \sum_i g_{ki}$$
#
# - $g_{ki}$ is the gradient of the loss of label $i$ on rank $k$, and $n_k$ the number of labels there;
# - $K$ is the number of ranks. With all $n_k$ alike the two are the same.
#
# How far apart they are, and what mends it, you are going to measure; first the means to do so.
#
# ### 6. All-reduce
#
# {{all-reduce}}
#
# **All-reduce** gives every rank the sum of what all ranks have. Write `all_reduce(x, rank, size, send, receive)`. `send(tensor, to)` puts a tensor on its way to the rank `to`
# and does not wait. `receive(source, like)` *waits* for the next tensor from the rank `source`; `like` is any tensor of the shape that will come. `x` stays as it is. Return the
# sum, on each rank the same *bit for bit*: copies of a model that differ in the last bit drift apart.


# %%
def all_reduce(x, rank, size, send, receive):
    """The sum of the x of all ranks, of the shape of x."""
    ### BEGIN SOLUTION
    if rank > 0:
        send(x, 0)
        return receive(0, x)
    total = x.clone()
    for other in range(1, size):
        total += receive(other, x)
    for other in range(1, size):
        send(total, other)
    return total
    ### END SOLUTION


# %%
check("all-reduce", all_reduce)

# %% [markdown]
# ### 7. One mean over all labels
#
# {{mean-over-labels}}
#
# Each rank has the gradients of the *sum* of the losses over its own labels. Write `mean_gradients(gradients, labels, all_reduce)`: `gradients` is a list of tensors, `labels` the
# number of labels this rank has (it may be 0), and `all_reduce(tensor)` gives the sum of a tensor over all ranks. Return, on every rank, the gradients of the
# mean over *all* labels.


# %%
def mean_gradients(gradients, labels, all_reduce):
    """A list of tensors, of the shapes of `gradients`."""
    ### BEGIN SOLUTION
    total = all_reduce(torch.tensor(float(labels)))
    return [all_reduce(g) / total for g in gradients]
    ### END SOLUTION


# %%
check("mean-over-labels", mean_gradients)

# %% [markdown]
# Now for real: two Python processes, started by `torchrun`, which talk over gloo, a library for the network between processors (here it stays within the machine).
# `processes.run` starts them, sends them your functions, waits for a bounded time, and leaves none behind. In each runs `worker(rank, size, ...)`.
#
# Sixteen numbers in Italian, in four ways dealt to the two: with the same number of labels each (the control), at random, the short words to one and the long ones to the other, and
# two to one and fourteen to the other, as at the end of an epoch. Six draws of the numbers each.


# %%
def italian_lora():
    """polyglot-350k with a LoRA whose B is not zero, the same in every process."""
    model, _ = pl.lab.load_base("polyglot-350k")
    torch.manual_seed(0)
    pl.attach(model, LoRA, "all-linear", r=8, lora_alpha=16)
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(p, std=0.02)
    return model


def labels_of(batch):
    return int((batch["labels"] != -100).sum())


def gradient_of(model, batch, scale=1.0):
    """The gradients of the mean loss over the labels of one batch, times a number."""
    model.zero_grad()
    (model(**batch).loss * scale).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


def dealt(seed):
    """{how: (rows of rank 0, rows of rank 1)}, sixteen numbers in all."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=draw).tolist()
    some = [data[i] for i in order[:16]]
    by_length = sorted(some, key=lambda row: len(row["answer"]))
    twin = []
    for row in some[:8]:  # another number whose word is as long
        alike = [i for i in order[16:] if len(data[i]["answer"]) == len(row["answer"])]
        twin.append(data[alike[0]])
    return {
        "equal": (some[:8], twin),
        "at random": (some[:8], some[8:]),
        "short, long": (by_length[:8], by_length[8:]),
        "2 and 14": (some[:2], some[2:]),
    }


SEEDS = range(6)
in_batches = answers(tokenizer)
deals = {seed: dealt(seed) for seed in SEEDS}
batches = {
    seed: {how: [in_batches(part) for part in parts] for how, parts in deal.items()}
    for seed, deal in deals.items()
}
for how, parts in batches[0].items():
    print(f"{how:12} labels of the two ranks:", *map(labels_of, parts))


# %%
def averages(rank, size, batches, all_reduce, mean_gradients):
    """For each deal the average of the ranks' means, and the mean over all labels."""
    model, out = italian_lora(), {}
    send, receive, _ = processes.mail()

    def total(tensor):
        return all_reduce(tensor, rank, size, send, receive)

    for seed, deal in batches.items():
        for how, parts in deal.items():
            labels = labels_of(parts[rank])
            mine = gradient_of(model, parts[rank])
            naive = [total(g) / size for g in mine]
            mended = mean_gradients([g * labels for g in mine], labels, total)
            out[seed, how] = flat(naive), flat(mended)
    return out


# %% tags=["heavy"]
yours = {"all_reduce": all_reduce, "mean_gradients": mean_gradients}
both = processes.run(averages, batches=batches, seconds=300, **yours)
alike = all(
    torch.equal(a, b) for key in both[0] for a, b in zip(both[0][key], both[1][key])
)
print("both processes hold the same gradients, bit for bit:", alike)
assert alike, "the two would drift apart: look at `all_reduce`"


# %% [markdown]
# What should have come out is what *one* process computes from all sixteen at once. How far is each average from it, as a share of its norm?


# %% tags=["nbval-ignore-output", "heavy"]
def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


alone = italian_lora()
naive, mended = {}, {}
for how in deals[0]:
    off = []
    for seed in SEEDS:
        first, second = deals[seed][how]
        one = flat(gradient_of(alone, in_batches(first + second)))
        off.append([apart(found, one) for found in both[0][seed, how]])
    naive[how], mended[how] = zip(*off)
    mean, half = interval(naive[how])
    print(f"{how:12} average of means: {mean:6.1%} ± {half:5.1%} off", end="; ")
    print(f"mean over all labels: {max(mended[how]):.0e} at most")
print(f"{len(SEEDS)} draws")

# %% tags=["heavy"]
for how in deals[0]:
    assert max(mended[how]) < 1e-4, f"{how}: not what one process has: `mean_gradients`"
assert max(naive["equal"]) < 1e-4, "with equal numbers of labels both are the same"
for how in ("short, long", "2 and 14"):
    assert min(naive[how]) > 0.02, f"{how}: the average of means is expected to be off"

# %% tags=["hide-source", "nbval-ignore-output", "heavy"]
figures.show(
    figures.intervals(
        list(naive),
        {
            "average of means": [interval(v) for v in naive.values()],
            "mean over all labels": [interval(v) for v in mended.values()],
        },
        "Two processes against one: six draws, 95 % intervals",
        "how sixteen numbers are dealt to two ranks",
        "distance, as a share of the norm",
        joined=False,
    ),
    alt="Distance of two processes' gradient from that of one, for four deals. The mean over all labels lies at zero everywhere. The average of means is at zero where "
    "both have as many labels, off a little at random, more for short and long words, and most where one has two words and the other fourteen.",
)

# %% [markdown]
# With equal numbers of labels the average of means *is* the mean: that is why the mistake is easily missed in a test. With unequal ones it is another gradient, and the further off the more
# unequal they are. Sum over sum is what one process computes, to rounding, however the rows are dealt. (What an error of this size does to a whole training was not measured here.)
#
# ### What the libraries do
#
# Nobody writes an all-reduce at work. `DistributedDataParallel` averages gradients over ranks, `accelerate` wraps a model in it, **FSDP** keeps a part of each weight on each rank, and
# `Trainer` stands on top. Which of them mends the mean? The deal of short and long words, through each. For the sum over the sum, a loss can be scaled before it is sent
# backward: by the ranks times its own labels over all labels.


# %%
def one_step(model, batch, folder):
    """The change that one step of `Trainer` with plain SGD makes: a gradient."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    quiet = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
    plain = {"max_grad_norm": 0, "lr_scheduler_type": "constant", "max_steps": 1}
    args = TrainingArguments(folder, use_cpu=True, ddp_backend="gloo", **quiet, **plain)
    sgd = torch.optim.SGD(trainable, lr=1.0)
    made = Trainer(model, args, train_dataset=[batch], optimizers=(sgd, None))
    made.get_train_dataloader = lambda: [batch]  # this rank's part and no other
    made.remove_callback(PrinterCallback)
    made.train()
    return [b - p.detach() for b, p in zip(before, trainable)]


def libraries(rank, size, parts, folder):
    """{library: the gradient it makes of the two parts}, and what FSDP1 says."""
    from accelerate import Accelerator
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.nn.parallel import DistributedDataParallel

    mine, out = parts[rank], {}
    scale = size * labels_of(mine) / sum(map(labels_of, parts))
    model = DistributedDataParallel(italian_lora())
    out["DDP"] = flat(gradient_of(model, mine))
    out["DDP, loss scaled"] = flat(gradient_of(model, mine, scale))

    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(italian_lora())
    accelerator.backward(model(**mine).loss)
    out["accelerate"] = flat([p.grad for p in model.parameters() if p.grad is not None])
    out["Trainer"] = flat(one_step(italian_lora(), mine, folder))

    for name, factor in {"FSDP2": 1.0, "FSDP2, loss scaled": scale}.items():
        model = italian_lora()
        for block in model.model.layers:
            fully_shard(block)
        fully_shard(model)
        out[name] = flat([g.full_tensor() for g in gradient_of(model, mine, factor)])
    on = {"device_id": torch.device("cpu")}
    try:
        FullyShardedDataParallel(italian_lora(), **on)
        out["FSDP1"] = "no error"
    except ValueError as error:
        out["FSDP1"] = f"{type(error).__name__}: {error}"
    out["its mend"] = FullyShardedDataParallel(italian_lora(), use_orig_params=True, **on)
    out["its mend"] = out["its mend"](**mine).loss.isfinite().item()
    return out


# %% tags=["heavy"]
parts = batches[0]["short, long"]
made, _ = processes.run(libraries, parts=parts, folder=f"{here.name}/two", seconds=300)
first, second = deals[0]["short, long"]
one = flat(gradient_of(alone, in_batches(first + second)))
average = both[0][0, "short, long"][0]
of_means = {}
for name in (
    "DDP",
    "accelerate",
    "FSDP2",
    "Trainer",
    "DDP, loss scaled",
    "FSDP2, loss scaled",
):
    of_means[name] = apart(made[name], average) < 1e-4
    as_one = apart(made[name], one) < 1e-4
    what = "the average of means" if of_means[name] else "the mean over all labels"
    assert of_means[name] != as_one, f"{name} is neither, or both"
    print(f"{name:20} {what}")

# %% tags=["heavy"]
plain = [of_means[name] for name in ("DDP", "accelerate", "FSDP2")]
assert all(plain), "these average means: if one no longer does, the text is out of date"
mends = [of_means[name] for name in ("Trainer", "DDP, loss scaled", "FSDP2, loss scaled")]
assert not any(mends), "these are the mean over all labels: look at the scale"

# %% [markdown]
# `DistributedDataParallel` averages what it is given; `accelerate` puts a model into it and changes nothing about that, so that a loop of your own has to scale the loss;
# `Trainer` counts the labels of all ranks before it computes a loss, and gives what one process gives. With `accelerate` a script changes in three places (`prepare` for model, optimizer and
# loader, `accelerator.backward`, and a launcher around it all), and what it means changes in a fourth that nobody sees. FSDP2's `fully_shard` takes a model of `pl.attach` as it is: frozen and trainable parameters
# side by side. Its older sister does not:

# %% tags=["heavy"]
print(textwrap.fill(made["FSDP1"], 90))
print("with use_orig_params=True it runs:", made["its mend"])
assert "uniform" in made["FSDP1"] and made["its mend"], "this error is known for long"

# %% [markdown]
# FSDP1 packs all parameters of a block into one tensor, and one tensor requires a gradient or does not. In a block with an adapter some do and some do not; `use_orig_params=True` keeps them apart.
#
# ### 8. What a step sends
#
# {{bytes-a-step}}
#
# Write `bytes_a_step(frozen, trainable, size)`: the bytes that *each* process sends in a training step, in float32, for two arrangements.
#
# - *The model everywhere* (DDP): one all-reduce of the gradients in a ring. A tensor is cut into `size` pieces; `size - 1` rounds add them up, and as many again hand the sums around. In each round every rank sends one piece.
# - *The model in parts* (FSDP): each rank keeps one piece of every weight. All weights, frozen or not, are gathered for the forward pass and again for the backward pass (`size - 1` rounds each), and the
#   gradients are summed so that each rank gets its own piece (`size - 1` rounds).


# %%
def bytes_a_step(frozen, trainable, size):
    """(bytes with the model everywhere, bytes with the model in parts)."""
    ### BEGIN SOLUTION
    around = 4 * (size - 1) / size
    return 2 * around * trainable, around * (2 * (frozen + trainable) + trainable)
    ### END SOLUTION


# %%
check("bytes-a-step", bytes_a_step)

# %% [markdown]
# Write down what you expect: by what factor does a LoRA send less than full fine-tuning, in each of the two? Then count what really leaves a process: with your own
# all-reduce the bytes given to `send`, with FSDP2 the bytes given to its two operations.


# %%
def counted(rank, size, batch, all_reduce):
    """{(trained, arrangement): (bytes of weights, of gradients, frozen, trainable)}."""
    from torch.distributed.fsdp import fully_shard

    out, passed = {}, {}
    kinds = {"all_gather_single": "weights", "reduce_scatter_single": "gradients"}
    for name, operation in {name: getattr(dist, name) for name in kinds}.items():

        def watched(*args, operation=operation, kind=kinds[name], **kwargs):
            every = [*args, *kwargs.values()]
            tensors = [v for v in every if isinstance(v, torch.Tensor)]
            piece = min(t.numel() * t.element_size() for t in tensors)
            passed[kind] = passed.get(kind, 0) + piece * (size - 1)
            return operation(*args, **kwargs)

        setattr(dist, name, watched)
    for arrangement in ("everywhere", "in parts"):
        for what in ("LoRA", "full"):
            model = italian_lora()
            if what == "full":
                pl.detach(model).requires_grad_(True)
            trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
            frozen = sum(p.numel() for p in model.parameters()) - trainable
            passed.clear()
            if arrangement == "everywhere":
                send, receive, sent = processes.mail()
                for g in gradient_of(model, batch):
                    all_reduce(g, rank, size, send, receive)
                passed["gradients"] = sum(sent)
            else:
                for block in model.model.layers:
                    fully_shard(block)
                fully_shard(model, reshard_after_forward=True)
                gradient_of(model, batch)
            sizes = passed.get("weights", 0), passed["gradients"]
            out[what, arrangement] = (*sizes, frozen, trainable)
    return out


# %% tags=["heavy"]
steps = processes.run(counted, batch=parts[0], all_reduce=all_reduce, seconds=300)[0]
sent = {}
for (what, arrangement), (weights, gradients, frozen, trainable) in steps.items():
    sent[what, arrangement] = weights + gradients
    expected = bytes_a_step(frozen, trainable, 2)[arrangement == "in parts"]
    print(f"{what:5} {arrangement:11} {weights + gradients:>10,} sent", end=", ")
    print(f"{expected:>12,.0f} predicted")
    off = abs(weights + gradients - expected)
    assert off < 0.01 * expected, "see `bytes_a_step`, or how you send"
for a in ("everywhere", "in parts"):
    times = sent["full", a] / sent["LoRA", a]
    print(f"{a:11} full fine-tuning sends {times:.1f} times as much as LoRA")

# %% tags=["hide-source", "heavy"]
figures.show(
    figures.stacked(
        {
            f"{what}, {arrangement}": {"gradients": gradients, "weights": weights}
            for (what, arrangement), (weights, gradients, *_) in steps.items()
        },
        "Two processes, polyglot-350k, one step",
        unit=1e6,
        label="bytes sent by each process, in millions",
    ),
    alt="Four bars of bytes sent in a step, made of gradients and weights. With the model everywhere there are only gradients, of which LoRA has few and full fine-tuning "
    "many. With the model in parts the weights are most of both bars, and LoRA's is only a little shorter.",
)

# %% tags=["heavy"]
few = sent["full", "everywhere"] / sent["LoRA", "everywhere"]
all_weights = sent["full", "in parts"] / sent["LoRA", "in parts"]
assert few > 5 and all_weights < 2, "few gradients, but all the weights"

# %% [markdown]
# Where every rank has the whole model, only gradients travel, and an adapter has few. Where the model lies in parts, each weight has to be fetched in order to be used, frozen or
# not, and that is most of what travels: an adapter saves part of the rest. The same by your function for a model that people use, on eight devices:

# %%
talker, _ = pl.lab.load_base("smollm2-135m")
whole = talker.num_parameters()
pl.attach(talker, LoRA, ["q_proj", "v_proj"], r=8)
small = sum(p.numel() for p in talker.parameters() if p.requires_grad)
lora, full = bytes_a_step(whole, small, 8), bytes_a_step(0, whole, 8)
for name, a, b in zip(("everywhere", "in parts"), full, lora):
    print(f"{name:11} full {a / 1e6:7.1f} MB, LoRA {b / 1e6:7.1f} MB, {a / b:.1f} times")

# %% [markdown]
# Hundreds of times less, or a third less: it is the same adapter. (What FSDP is used for is something else: no device has to hold the whole model.)
#
# ## Read the result
#
# **What it shows.** The library does what you built, loss by loss, and takes your models as they are. Its errors come from the seams: what a column, a layer, a head, a parameter, a weight is *called*, and
# who believes to own it. Three of the five can pass without any error: half of the targets, a forgotten head, a merge into a shared weight. And two processes train as one only if they agree on what they average.
#
# | claim | here |
# | --- | --- |
# | *the library has more than 25 methods* (C31) | true, and out of date; the number is printed above |
# | *it takes little code* (C32) | true: a dozen lines for Italian; each of the errors above fits into one of them |
# | *versions can be swapped without full copies* (C10) | holds if the file holds all that was trained or drawn: a forgotten head came back as another one |
# | *an adapter makes training on several devices cheap* | of gradients, yes; where the weights themselves lie in parts, hardly |
#
# **What it does not show.** Two processes on one machine share its memory and its cores: nothing here says how *fast* anything is. The distances between gradients are those of one small model at one state. That the
# average of means makes a worse model was not measured; that it is another gradient was. The versions are those of one day, and each cell that shows an error fails when the library mends it.
#
# **Negative results, said aloud.** `accelerate` does not mend the mean. Under FSDP an adapter saves little of what is sent. And a control that is too kind, halves with equal numbers of labels, would have shown none of it.
#
# ## Go further
#
# - Your all-reduce sends everything to one rank, or all to all. Count what *one* rank sends with four processes, `processes.run(..., size=4)`, and write the ring.
# - Train Italian with the average of means, and with the mean over all labels, from sorted rows, with six seeds. Can you tell the models apart? This is open here.
# - Gradient accumulation splits a batch in time and not in space. Does the same mistake live there? Ask `Trainer` with `gradient_accumulation_steps`.
# - Put `trainable_only` before a run with `modules_to_save`, and see what trains if you forget it.
# - An open question: which of the errors on this page could a library refuse without refusing something that people want?
#
# Sources: `transformers`, `peft`, `accelerate`, `datasets`, Apache-2.0; PyTorch's DDP and FSDP. FSDP: [arXiv:2304.11277](https://arxiv.org/abs/2304.11277). The ring:
# Patarasuk and Yuan, 2009. The launcher: `peftlab/lab/processes.py`. The sentences: Hutto and Gilbert, ICWSM 2014.

# %% [markdown] tags=["written"]
# ## In your own words
#
# A colleague moved a training from one process to two. *The loss curves differ a little, but floats never agree exactly, so it is the same training.* What did you see on this page that
# belongs beside this sentence, and beside which control? What would you measure, on which batches, and which outcome would make you agree?
