"""Which layers of a model a name means, and which of them carry adapters."""
import re

from torch import nn

from peftlab.adapter import is_conv1d


def targets(model, target_modules):
    """The (path, layer) pairs of `model` that `target_modules` names. Raises ValueError if one matches nothing."""
    layers = [(path, layer) for path, layer in model.named_modules() if path and not is_ours(path)]
    if target_modules == "all-linear":
        head = getattr(model, "get_output_embeddings", lambda: None)()
        found = [(p, m) for p, m in layers if (isinstance(m, nn.Linear) or is_conv1d(m)) and m is not head]
        missing = [] if found else ["all-linear"]
    elif isinstance(target_modules, str):
        found = [(p, m) for p, m in layers if re.fullmatch(target_modules, p)]
        missing = [] if found else [target_modules]
    elif target_modules:
        ends = list(target_modules)
        found = [(p, m) for p, m in layers if any(p == e or p.endswith("." + e) for e in ends)]
        missing = [e for e in ends if not any(p == e or p.endswith("." + e) for p, _ in layers)]
    else:
        raise ValueError("name the layers to adapt in target_modules, a list of endings such as ['q_proj', 'v_proj']; "
                         + there_are(layers))
    if missing:
        hint = "a string is a regular expression for the whole name; did you mean a list? " \
            if isinstance(target_modules, str) and target_modules != "all-linear" else ""
        raise ValueError(f"no layer is called {missing[0]!r}: {hint}{there_are(layers)}")
    return found


def there_are(layers):
    """A sentence with the endings of the layers' names, in order of appearance, without block numbers."""
    names = {}
    for path, layer in layers:
        end = path.split(".")[-1]
        if len(layer._parameters) and not end.isdigit():
            names.setdefault(end, type(layer).__name__)
    return "the layers end in " + ", ".join(f"{n} ({t})" for n, t in names.items())


def copied(model, modules_to_save):
    """The (path, layer) pairs to train as copies: layers with parameters of their own, also those inside a block."""
    blocks = targets(model, modules_to_save) if modules_to_save else ()
    return list({id(layer): (f"{path}.{inner}".rstrip("."), layer) for path, block in blocks
                 for inner, layer in block.named_modules() if layer._parameters and not is_ours(inner)}.values())


def adapted(model, name=None):
    """The (path, layer) pairs that carry adapters, or the adapter `name`."""
    return [(p, m) for p, m in model.named_modules()
            if "adapters" in m._modules and (name is None or name in m.adapters)]


def is_ours(path):
    """Whether this path leads into an adapter."""
    return ".adapters." in f".{path}." or ".virtual_tokens." in f".{path}."
