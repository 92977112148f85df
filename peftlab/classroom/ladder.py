"""The ladder in small: what must hold for any method, tried on a tiny model. For a method of your own.

The project's tests climb a longer one, with three architectures and `peft` beside each method.
"""

import inspect
import tempfile
import warnings

import torch

from .observing import shake, tiny_llama

EXACT = 1e-6  # the largest difference that counts as equal in float32, as a share of the largest number


def climb(method, target_modules=("q_proj", "down_proj"), **options):
    """Try `method`, a subclass of `Adapter`, on each rung. Returns a pandas frame: rung, holds, seen.

    A rung that does not hold is a property of some methods (virtual tokens do not start as the base model, adapters
    with a non-linearity cannot be merged) and a mistake in others: `seen` says what happened.
    """
    import pandas

    from peftlab.virtual_tokens import VirtualTokens

    targets = None if issubclass(method, VirtualTokens) else list(target_modules)

    def put(name="mine", model=None):
        """The method on a tiny model, as it starts; the same start each time."""
        import peftlab as pl

        model = tiny_llama(0) if model is None else model
        torch.manual_seed(len(name))
        return pl.attach(model, method, targets, name, **options)

    rows = []
    for rung in RUNGS:
        try:
            holds, seen = rung(put)
        except Exception as error:  # noqa: BLE001 - whatever a learner's code raises belongs in the table
            holds, seen = False, f"{type(error).__name__}: {error}"
        rows.append({"rung": inspect.getdoc(rung), "holds": holds, "seen": seen})
    return pandas.DataFrame(rows)


def batch(rows=3, time=6):
    """Token ids of a few texts, (rows, time)."""
    return torch.randint(3, 40, (rows, time), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model, rows=3):
    return model(batch(rows)).logits


def moved(put, name="mine", model=None):
    """The method on a tiny model, its parameters shaken off their start, so that it changes the answers."""
    import peftlab as pl

    model = put(name, model)
    for layer in model.modules():
        for adapter in (layer.adapters[name],) if name in getattr(layer, "adapters", ()) else ():
            shake(adapter, len(name))
    for tokens in (pl.virtual_tokens.on(model)[name],) if name in pl.virtual_tokens.on(model) else ():
        shake(tokens, len(name))
    return model


def apart(a, b):
    """The largest difference as a share of the largest number in b, and whether it is only rounding."""
    difference = ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
    return difference <= EXACT, f"largest difference {difference:.1g}"


def starts_as_base(put):
    """it starts as the base model"""
    return apart(logits(put()), logits(tiny_llama(0)))


def matters(put):
    """once trained, it changes the answers"""
    equal, seen = apart(logits(moved(put)), logits(tiny_llama(0)))
    return not equal, seen


def counted(put):
    """its closed form counts what is trained"""
    import peftlab as pl

    model = put()
    method, targets, options = model.switch.recipe["mine"]
    formula, trained = pl.closed_form(tiny_llama(0), method, targets, **options), pl.count(model).trainable
    return formula == trained, f"formula {formula:,}, trained {trained:,}"


def alone(put):
    """a step of training changes its parameters, all of them and no others"""
    model = moved(put)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    asked = {n for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(batch(), labels=batch()).loss.backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    wrong = sorted(asked ^ changed)
    return not wrong, f"{len(changed)} tensors changed" + (f"; not as asked: {wrong[0]}" if wrong else "")


def switched_off(put):
    """switched off, and taken off, it leaves the base model bit for bit"""
    import peftlab as pl

    model = moved(put)
    pl.use(model)
    off = torch.equal(logits(model), logits(tiny_llama(0)))
    pl.detach(model)
    state, base = model.state_dict(), tiny_llama(0).state_dict()
    same = state.keys() == base.keys() and all(torch.equal(state[k], base[k]) for k in base)
    return off and same, f"answers {'the same' if off else 'changed'}, weights {'the same' if same else 'changed'}"


def kept(put):
    """saved and loaded, it gives the same answers"""
    import peftlab as pl

    model = moved(put)
    with tempfile.TemporaryDirectory() as folder:
        pl.save(model, folder, "mine")
        again = pl.load(tiny_llama(0), folder, "again")
    return apart(logits(again), logits(model))


def mixed(put):
    """in a mixed batch, each row is what its adapter gives alone"""
    import peftlab as pl

    model = moved(put, "second", moved(put))
    names = ["mine", None, "second"]
    with pl.mix(model, names):
        together = logits(model)
    single = []
    for i, name in enumerate(names):
        pl.use(model, *([name] if name else []))
        single.append(logits(model)[i])
    return apart(together, torch.stack(single))


def merged(put):
    """merged into the weights, it gives the same answers"""
    import peftlab as pl

    model = moved(put)
    before = logits(model)
    with warnings.catch_warnings(action="ignore"):  # of a bias that a layer gets: nothing is saved here
        pl.merge(model)
    return apart(logits(model), before)


def generates(put):
    """it generates the same with a cache and without"""
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    model, prompt = moved(put), batch()
    settings |= {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
    cached, whole = (model.generate(prompt, use_cache=cache, **settings) for cache in (True, False))
    return torch.equal(cached, whole), f"{int((cached == whole).sum())} of {cached.numel()} tokens the same"


RUNGS = [starts_as_base, matters, counted, alone, switched_off, kept, mixed, merged, generates]
