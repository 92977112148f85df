"""What must hold of every method on every architecture, or be refused with a reason."""
import copy
import inspect
import re
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import peft
import torch
from architectures import ARCHITECTURES
from torch import nn

import peftlab as pl
from peftlab import methods as M
from peftlab.adapter import is_conv1d
from peftlab.files import tensors
from peftlab.use import parameters

REFUSALS = (ValueError, TypeError)
EQUAL = 2e-4                                                 # of the largest number that the base answers
MOVES = 20 * EQUAL


@dataclass(frozen=True)
class Column:
    """One column of the table: a method, what it goes on, and its options."""

    name: str
    method: type
    on: str = "linear"                                       # which function below looks for its targets
    options: dict = field(default_factory=dict)
    config: object = None                                    # peft's configuration, given the same options
    shake: float = 0.1                                       # how far the perturbed adapter is from where it starts
    head: bool = False                                       # whether what answers is trained as a copy
    not_in_peft: str = "`peft` does not have it"

    def other(self):
        """Options for a second adapter beside the first: another number of virtual tokens."""
        return {k: v + 1 if k == "num_virtual_tokens" else v for k, v in self.options.items()}


LORA = {"r": 4, "lora_alpha": 8}
TOKENS = {"num_virtual_tokens": 3}
CHANGES_BASE = "`peft` changes the weights of the base for it"
BOTTLENECK = {"reduction_factor": 4}

COLUMNS = {c.name: c for c in [
    Column("LoRA", M.LoRA, "linear", LORA, peft.LoraConfig),
    Column("LoRA and the head", M.LoRA, "linear", LORA, peft.LoraConfig, head=True),
    Column("LoRA on embeddings", M.LoRA, "embedding", LORA, peft.LoraConfig),
    Column("LoRA on convolutions", M.LoRA, "convolution", LORA, peft.LoraConfig),
    Column("PromptTuning", M.PromptTuning, "tokens", TOKENS, peft.PromptTuningConfig, .3),
    Column("PTuning", M.PTuning, "tokens", {**TOKENS, "encoder_hidden_size": 8}, peft.PromptEncoderConfig, .3),
    Column("PrefixTuning", M.PrefixTuning, "tokens", TOKENS, peft.PrefixTuningConfig, .3),
    Column("MultitaskPromptTuning", M.MultitaskPromptTuning, "tokens", {**TOKENS, "num_tasks": 2, "num_ranks": 2},
           peft.MultitaskPromptTuningConfig, .3),
    Column("AdaptionPrompt", M.AdaptionPrompt, "attention", {"adapter_len": 4, "adapter_layers": 1},
           peft.AdaptionPromptConfig, .5),
    Column("AdaLoRA", M.AdaLoRA, "linear", {"init_r": 4, "target_r": 2, "lora_alpha": 8, "total_step": 20},
           peft.AdaLoraConfig, .2),
    Column("AdapterFusion", M.AdapterFusion, "linear", {"adapters": ["first", "second"]}),
    Column("BitFit", M.BitFit, "biased", {}, peft.BeftConfig),
    Column("BOFT", M.BOFT, "linear", {"boft_block_size": 4}, peft.BOFTConfig),
    Column("C3A", M.C3A, "linear", {"block_size": 4}, peft.C3AConfig),
    Column("Compacter", M.Compacter, "linear", {**BOTTLENECK, "phm_dim": 2}),
    Column("DeLoRA", M.DeLoRA, "linear", {"r": 3, "delora_lambda": 2}, peft.DeloraConfig),
    Column("DoRA", M.DoRA, "linear", LORA, lambda **k: peft.LoraConfig(use_dora=True, **k)),
    Column("FourierFT", M.FourierFT, "linear", {"n_frequency": 20, "scaling": 5.0}, peft.FourierFTConfig, 1.0),
    Column("FullFineTuning", M.FullFineTuning, "linear", not_in_peft="`peft` has no configuration that trains copies alone"),
    Column("GraLoRA", M.GraLoRA, "linear", {"r": 4, "alpha": 8, "gralora_k": 2}, peft.GraloraConfig),
    Column("HiRA", M.HiRA, "linear", {"r": 3}, peft.HiraConfig, .3),
    Column("Houlsby", M.Houlsby, "linear", BOTTLENECK),
    Column("HRA", M.HRA, "linear", {"r": 4}, peft.HRAConfig),
    Column("IA3", M.IA3, "feedforward", {}, peft.IA3Config),
    Column("LNTuning", M.LNTuning, "norm", {}, peft.LNTuningConfig),
    Column("LoHa", M.LoHa, "linear", {"r": 3, "alpha": 4}, peft.LoHaConfig, .3),
    Column("LoKr", M.LoKr, "linear", {"r": 1, "alpha": 4}, peft.LoKrConfig, .2),
    Column("LoReFT", M.LoReFT, "linear", {"r": 3}),
    Column("MiCA", M.MiCA, "linear", LORA, lambda **k: peft.LoraConfig(init_lora_weights="mica", **k)),
    Column("MiSS", M.MiSS, "linear", {"r": 4}, peft.MissConfig),
    Column("OFT", M.OFT, "linear", {"oft_block_size": 4}, lambda **k: peft.OFTConfig(r=0, **k)),
    Column("OLoRA", M.OLoRA, "linear", LORA, not_in_peft=CHANGES_BASE),
    Column("ParallelAdapter", M.ParallelAdapter, "feed-forward block", {"reduction_factor": 2}),
    Column("Pfeiffer", M.Pfeiffer, "block", BOTTLENECK),
    Column("PiSSA", M.PiSSA, "linear", LORA, not_in_peft=CHANGES_BASE),
    Column("RandLoRA", M.RandLoRA, "linear", {"r": 5}, peft.RandLoraConfig),
    Column("RoAd", M.RoAd, "linear", {"group_size": 4}, peft.RoadConfig),
    Column("SHiRA", M.SHiRA, "linear", {"r": 2}, peft.ShiraConfig),
    Column("TinyLoRA", M.TinyLoRA, "linear", {"r": 2, "u": 5}, peft.TinyLoraConfig, .3),
    Column("TrainableTokens", M.TrainableTokens, "embedding", {"token_indices": [*range(5, 50)]}, peft.TrainableTokensConfig),
    Column("UniLoRA", M.UniLoRA, "linear", {"r": 2, "theta_d_length": 30}, peft.UniLoraConfig, .3),
    Column("VBLoRA", M.VBLoRA, "linear", {"r": 2, "num_vectors": 6, "vector_length": 4}, peft.VBLoRAConfig, .5),
    Column("VeRA", M.VeRA, "linear", {"r": 6}, peft.VeraConfig, .5),
]}
VIRTUAL = [c for c in COLUMNS.values() if c.on == "tokens"]


# ------------------------------------------------------------------------------------------------ what there is to attach to

class NothingThere(Exception):
    """The architecture has no layer of the kind that a method goes on."""


def input_table(model):
    """What the model says turns its input into embeddings, if it says so."""
    try:
        return model.get_input_embeddings()
    except (AttributeError, NotImplementedError):            # a net of torch's alone; a model of sound
        return None


def is_linear(m):
    """Whether a linear layer is called, and not only read as nn.MultiheadAttention reads its out_proj."""
    return (isinstance(m, nn.Linear) or is_conv1d(m)) and not isinstance(m, nn.modules.linear.NonDynamicallyQuantizableLinear)


def pattern(paths):
    """A regular expression for these whole names."""
    return "|".join(p.replace(".", r"\.") for p in paths)


def in_blocks(found):
    """Those inside numbered blocks, if there are any."""
    return [(p, m) for p, m in found if re.search(r"\.\d+\.", p)] or found


def linear(model):
    """Two kinds of linear layers: the first and the last in the blocks, which read and write the hidden state."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = in_blocks([(p, m) for p, m in model.named_modules() if is_linear(m) and m is not head]
                      or [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear)])
    kinds = list(dict.fromkeys(re.sub(r"\d+", "#", p) for p, _ in found))
    return [p for p, _ in found if re.sub(r"\d+", "#", p) in (kinds[0], kinds[-1])]


def feedforward(model):
    return linear(model)


def biased(model):
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = in_blocks([(p, m) for p, m in model.named_modules() if is_linear(m) and m is not head and m.bias is not None])
    return [p for p, _ in found] or linear(model)


def embedding(model):
    tables = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Embedding)]
    found = [p for p, m in tables if m is input_table(model)] or [p for p, _ in tables]
    if not found:
        raise NothingThere("no embedding table")
    return found[:1]


def convolution(model):
    found = [p for p, m in model.named_modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and m.groups == 1
             and "parametrizations" not in m._modules]
    if not found:
        raise NothingThere("no convolution")
    return found


def norm(model):
    found = [(p, m) for p, m in model.named_modules() if "Norm" in type(m).__name__ and getattr(m, "weight", None) is not None]
    if not found:
        raise NothingThere("no norm with weights")
    return [p for p, _ in found]


def attention(model):
    found = [p for p, m in model.named_modules() if re.search(r"(?i)attention", type(m).__name__) and any(map(is_linear, m.children()))]
    if not found:
        raise NothingThere("no attention")
    kinds = [re.sub(r"\d+", "#", p) for p in found]
    return [p for p, kind in zip(found, kinds) if kind == kinds[-1]]


def feed_forward_block(model):
    """Modules that lead from the width of the hidden state through a wider layer back to it."""
    def leads_back(m):
        inside = [x for x in m.modules() if is_linear(x)]
        widths = [pl.adapter.shape(x) for x in inside]
        return len(inside) in (2, 3) and m not in inside and widths[0][0] == widths[-1][1] < widths[0][1]
    found = [p for p, m in model.named_modules() if not isinstance(m, (nn.ModuleList, nn.Sequential)) and p and leads_back(m)]
    if not found:
        raise NothingThere("no feed-forward block of its own")
    kinds = [re.sub(r"\d+", "#", p) for p in found]
    return [p for p, kind in zip(found, kinds) if kind == kinds[-1]]


def block(model):
    """The numbered blocks of the last list of them."""
    found = [p for p, m in model.named_modules() if re.search(r"\.\d+$", p) and sum(map(is_linear, m.modules())) > 1
             and not re.search(r"\.\d+\.", p)]
    if not found:
        raise NothingThere("no numbered blocks")
    last = found[-1].rpartition(".")[0]
    return [p for p in found if p.rpartition(".")[0] == last]


FINDERS = {"linear": linear, "feedforward": feedforward, "biased": biased, "embedding": embedding, "convolution": convolution,
           "norm": norm, "attention": attention, "feed-forward block": feed_forward_block, "block": block}


def heads(model):
    """Where the model's answer is made: what has weights beside the transformer itself."""
    inner = getattr(model, getattr(model, "base_model_prefix", "") or "-", None)
    found = [n for n, m in model.named_children() if m is not inner and any(True for _ in m.parameters())]
    shared = getattr(input_table(model), "weight", None)
    found = [n for n in found if not any(p is shared for p in model.get_submodule(n).parameters())]
    if inner is None or not found:
        raise NothingThere("no head with weights of its own")
    return found


# ------------------------------------------------------------------------------------------------ attaching, and asking

def where(column, arch):
    """(target_modules, modules_to_save) on this architecture."""
    return _where(column.on, column.head, arch.name)


@cache
def _where(on, head, name):
    model = _base(name)
    targets = None if on == "tokens" else pattern([p for p in FINDERS[on](model) if p not in idle(name)])
    return targets, heads(model) if head else None


@cache
def idle(name):
    """The layers that the base alone computes for nothing, such as the last of a tower that is read before it."""
    arch, model = ARCHITECTURES[name], copy.deepcopy(_base(name))
    sum(t.square().sum() for t in whole(ask(model, arch, arch.inputs(), grad=True))).backward()
    own = {path: [p for p in m.parameters() if p.requires_grad] for path, m in model.named_modules()}
    return {path for path, ps in own.items() if ps and all(p.grad is None for p in ps)}


@cache
def _base(name):
    return ARCHITECTURES[name].build()


def options_on(column, arch):
    if column.on != "feedforward":
        return column.options
    last = where(column, arch)[0].split("|")[-1].rpartition(r"\.")[2]
    return {**column.options, "feedforward_modules": [last]}


def base(column, arch):
    """A fresh model; AdapterFusion finds the adapters there that it listens to."""
    model = arch.build()
    torch.manual_seed(0)                                     # adapters start from the same numbers each time
    if column.method is M.AdapterFusion:
        for name in column.options["adapters"]:
            pl.attach(model, M.Houlsby, where(column, arch)[0], name, **BOTTLENECK)
            shake(tensors(model, name).values(), .3, name)
        pl.use(model)
    return model


def attach(model, column, arch, name="a"):
    targets, copies = where(column, arch)
    options = options_on(column, arch) if name == "a" else {**options_on(column, arch), **column.other()}
    pl.attach(model, column.method, targets, name, copies, **options)
    shake(parameters(model, name), column.shake, name)
    return model


@torch.no_grad()
def shake(trained, by, seed):
    g = torch.Generator().manual_seed(sum(map(ord, seed)))
    for p in trained:
        if p.is_floating_point():
            p.add_(by * torch.randn(p.shape, generator=g))


def ask(model, arch, inputs, grad=False):
    with torch.enable_grad() if grad else torch.no_grad():
        return arch.rows(model(**inputs), inputs)


def apart(found, right):
    """The largest difference between two lists of tensors, as a share of the largest number in the second."""
    if len(found) != len(right):
        return float("inf")
    worst = 0.0
    for a, b in zip(found, right):
        if a.dim() and len(a) > len(b):                      # frames of sound that are padding
            a = a[:len(b)]
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, ((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item())
    return worst


def whole(answers):
    return [torch.stack(ts) if len({t.shape for t in ts}) == 1 else torch.cat(ts) for ts in zip(*answers)]


@cache
def pads(name):
    """Whether a padded row of the base alone equals the row by itself."""
    arch, model = ARCHITECTURES[name], _base(name)
    inputs = arch.inputs()
    together = ask(model, arch, inputs)
    return all(apart(together[i], by_itself(model, arch, inputs, i)) < EQUAL for i in range(len(together)))


def by_itself(model, arch, inputs, i):
    alone = arch.alone(inputs, i)
    [row] = ask(model, arch, alone)
    return row


# ------------------------------------------------------------------------------------------------ what must hold

class Wrong(Exception):
    """Something was not as it must be, and nothing was said."""


@contextmanager
def refusing(found, what):
    """Note a refusal and go on; anything else that is raised is wrong."""
    try:
        yield
    except REFUSALS as e:
        found["refused"][what] = reason(e)


def reason(error):
    text = re.sub(r"(/tmp/\S*?|/var/\S*?)/(adapter_\w+\.\w+)", r"\2", " ".join(str(error).split()))
    return text


@contextmanager
def no_error(what):
    """An error that is no refusal is turned into what is wrong."""
    try:
        yield
    except (Wrong, NothingThere, *REFUSALS):
        raise
    except Exception as e:
        raise Wrong(f"{what} raises {type(e).__name__}: {reason(e)[:160]}") from e


def must(fact, what):
    if not fact:
        raise Wrong(what)


def cell(arch, column):
    """What is found of a method on an architecture: {"word": held, refused, none or WRONG, "why": ..., "refused": {...}}."""
    found = {"word": "held", "why": "", "refused": {}, "held": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            where(column, arch)
            _look(arch, column, found)
        except NothingThere as e:
            found.update(word="none", why=str(e))
        except Wrong as e:
            found.update(word="WRONG", why=str(e))
    return found


def _look(arch, column, found):
    try:
        model = base(column, arch)
    except REFUSALS as e:                                    # what has to be on it before the method is
        found.update(word="refused", why=str(e))
        return
    first, named = copy.deepcopy(model.state_dict()), {n: p.requires_grad for n, p in model.named_parameters()}
    inputs, full = arch.inputs(), arch.whole()
    before, before_full = whole(ask(model, arch, inputs)), whole(ask(model, arch, full))
    try:
        with no_error("attach"):
            attach(model, column, arch)
    except REFUSALS as e:
        found.update(word="refused", why=reason(e))
        _is_the_base(model, arch, inputs, first, named, before, "attach refuses and leaves something behind")
        return
    try:
        with no_error("a call"):
            after = ask(model, arch, inputs)
    except REFUSALS as e:
        found.update(word="refused", why=reason(e))
        pl.detach(model) if column.method is not M.AdapterFusion else None
        return
    for held, look in HOLDS.items():
        with no_error(held):
            look(arch, column, found, model=model, inputs=inputs, full=full, after=after, before=before, first=first, named=named,
                 before_full=before_full)
        if held not in found["refused"]:
            found["held"].append(held)


def _moves(arch, column, found, model, after, before, **_):
    must(all(t.isfinite().all() for t in whole(after)), "the output is not finite")
    gap = apart(whole(after), before)
    must(gap > MOVES, f"the output does not move ({gap:.0e})")


def _gradient(arch, column, found, model, inputs, after, **_):
    """In train mode, where norms collect what they see and fast paths are off; and gradients or not, the answer is the same."""
    gap = apart([t.detach() for t in whole(ask(model, arch, inputs, grad=True))], whole(after))
    must(gap < EQUAL, f"another answer where gradients are kept ({gap:.0e})")
    model.train()
    answers = whole(ask(model, arch, inputs, grad=True))
    g = torch.Generator().manual_seed(5)
    sum((t * torch.randn(t.shape, generator=g)).sum() for t in answers).backward()
    model.eval()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    must(trained, "nothing is trained")
    without = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    must(not without, f"no gradient arrives at {len(without)} of {len(trained)} trained parameters, such as {(without or [''])[0]}")
    extra = [n for n, p in model.named_parameters() if p.grad is not None and n not in trained]
    must(not extra, f"a gradient arrives at {extra[:1]}, which is frozen")
    model.zero_grad()
    after[:] = ask(model, arch, inputs)                      # copies of norms that keep means have seen one batch more


def _padding(arch, column, found, model, inputs, after, **_):
    if not arch.mask or not pads(arch.name):
        return
    with refusing(found, "a padded row"):
        right = [by_itself(model, arch, inputs, i) for i in range(len(after))]
        worst = max(map(apart, after, right))
        if worst >= EQUAL and "position_ids" in inspect.signature(model.forward).parameters:
            counted = {"position_ids": (inputs[arch.mask].cumsum(1) - 1).clamp(min=0)}
            told = max(map(apart, ask(model, arch, {**inputs, **counted}), right))
            must(told >= EQUAL, f"a padded row is not the row alone ({worst:.0e}), but is if it is given its position_ids")
        must(worst < EQUAL, f"a padded row is not the row alone ({worst:.0e})")


def _mixed(arch, column, found, model, inputs, after, **_):
    with refusing(found, "a second adapter"):
        attach(model, column, arch, "b")
        second = ask(model, arch, inputs)
        pl.use(model)
        none = ask(model, arch, inputs)
        names = ["b", None, "a"]
        with refusing(found, "mix"):
            with pl.mix(model, names):
                together = ask(model, arch, inputs)
            right = [second[0], none[1], after[2]]
            worst = max(apart(a, b) for a, b in zip(together, right))
            must(worst < EQUAL, f"a row of a mixed batch is not the row of its adapter ({worst:.0e})")
    pl.use(model, "a")


def _saved_here(arch, column, found, model, inputs, after, **_):
    with refusing(found, "save"), tempfile.TemporaryDirectory() as folder:
        pl.save(model, folder, "a")
        try:
            again = pl.load(base(column, arch), folder)
        except REFUSALS as e:
            raise Wrong(f"our own file is refused: {reason(e)[:200]}") from e
        gap = apart(whole(ask(again, arch, inputs)), whole(after))
        must(gap < EQUAL, f"saved and loaded here it answers otherwise ({gap:.0e})")


def _detached(arch, column, found, model, inputs, first, named, before, **_):
    if column.method is M.AdapterFusion:                     # what it listens to was there before
        pl.detach(model)
        model.requires_grad_(True)
        first = {k: v for k, v in first.items() if ".adapters." not in k}
        named = {k: True for k in named if ".adapters." not in k}
        before = whole(ask(arch.build(), arch, inputs))
    else:
        pl.detach(model)
    _is_the_base(model, arch, inputs, first, named, before, "detach does not give the base back")


def _is_the_base(model, arch, inputs, first, named, before, what):
    state = model.state_dict()
    must(list(state) == list(first), f"{what}: names in its state differ: {sorted(state.keys() ^ first.keys())[:2]}")
    changed = [k for k, v in state.items() if not torch.equal(v, first[k])]
    must(not changed, f"{what}: {changed[:1]} differs")
    must({n: p.requires_grad for n, p in model.named_parameters()} == named, f"{what}: what is trained differs")
    must(all(torch.equal(a, b) for a, b in zip(whole(ask(model, arch, inputs)), before)), f"{what}: another answer")


# ------------------------------------------------------------------------------------------------ `peft`

TASKS = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS",
         "ForTokenClassification": "TOKEN_CLS", "ForQuestionAnswering": "QUESTION_ANS"}


def peft_config(column, arch, model):
    targets, copies = where(column, arch)
    name = type(model).__name__
    task = "SEQ_2_SEQ_LM" if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else next(
        (task for end, task in TASKS.items() if name.endswith(end)), "FEATURE_EXTRACTION")
    options = dict(options_on(column, arch))
    if column.on == "tokens":
        return column.config(task_type=task, **options)
    if column.method.in_peft.one_target:
        targets = targets.split("|")[0].rpartition(r"\.")[2]
    if copies:
        options["modules_to_save"] = copies
    return column.config(target_modules=targets, **options)


def cut(answers, like):
    """The last of each row's answers, as many as the base gives."""
    return [[t[len(t) - len(r):] if t.dim() and t.shape[1:] == r.shape[1:] else t for t, r in zip(row, base)]
            for row, base in zip(answers, like)]


def ask_peft(model, arch, inputs, like):
    """`peft`'s answers; those of its virtual tokens are cut off the front."""
    with torch.no_grad():
        answers = arch.rows(model(**inputs))
    return whole(cut(answers, like))


def for_task(column, inputs):
    return {**inputs, "task_ids": torch.zeros(len(next(iter(inputs.values()))), dtype=torch.long)} \
        if column.method is M.MultitaskPromptTuning else inputs


def _in_peft(arch, column, found, full, before_full, **_):
    """Both ways, on a batch without padding, where `peft` is right about positions."""
    if column.config is None:
        found["refused"]["peft"] = column.not_in_peft
        return
    try:
        q = peft.get_peft_model(arch.build(), peft_config(column, arch, _base(arch.name))).eval()
        shake([p for p in q.parameters() if p.requires_grad], column.shake, "a")
        plain = ask(_base(arch.name), arch, full)
        right = ask_peft(q, arch, for_task(column, full), plain)
    except Exception as e:  # noqa: BLE001 - whatever `peft` raises is its own
        found["refused"]["peft"] = f"`peft` itself: {type(e).__name__}: {reason(e)[:160]}"
        return
    with tempfile.TemporaryDirectory() as folder:
        q.save_pretrained(folder)
        with refusing(found, "peft's file here"):
            model = pl.load(base(column, arch), folder)
            gap = apart(whole(ask(model, arch, full)), right)
            must(gap < EQUAL, f"`peft`'s file here is off by {gap:.0e}; its effect is {apart(before_full, right):.0e}")
            with refusing(found, "our file in peft"), tempfile.TemporaryDirectory() as ours:
                pl.save(model, ours)
                try:
                    again = peft.PeftModel.from_pretrained(arch.build(), ours).eval()
                    there = ask_peft(again, arch, for_task(column, full), plain)
                except Exception as e:
                    raise Wrong(f"`peft` cannot read our file: {type(e).__name__}: {reason(e)[:160]}") from e
                gap = apart(there, right)
                must(gap < EQUAL, f"our file in `peft` is off by {gap:.0e}; its effect is {apart(before_full, right):.0e}")


HOLDS = {"moves": _moves, "gradient": _gradient, "padding": _padding, "mix": _mixed, "saved": _saved_here, "peft": _in_peft,
         "detach": _detached}
