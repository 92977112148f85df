"""Which layers of a model a name means, and which of them carry adapters."""
import regex
from torch import nn

from peftlab.adapter import is_conv1d

WHERE = ("exclude_modules", "layers_to_transform", "layers_pattern")         # fields of `peft` that narrow targets down


def unwrapped(model):
    """The model inside what `torch.compile` or data parallelism put around it: names in files are those of the model."""
    while True:
        if "_orig_mod" in model._modules:
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def targets(model, target_modules, exclude_modules=None, layers_to_transform=None, layers_pattern=None, lenient=False):
    """The (path, layer) pairs of `model` that `target_modules` names, chosen as `peft` chooses them.

    exclude_modules: endings, or a pattern, of layers to leave out. layers_to_transform: the numbers of the blocks to adapt,
    and layers_pattern what the list of blocks is called. lenient: whether a name may match nothing, if another does.
    Raises ValueError if one matches nothing.
    """
    layers = [(path, layer) for path, layer in model.named_modules() if path and not is_ours(path)]
    if target_modules == "all-linear":
        head = output_table(model)
        found = [(p, m) for p, m in layers if (isinstance(m, nn.Linear) or is_conv1d(m)) and m is not head and not only_read(m)]
        missing = [] if found else ["all-linear"]
    elif isinstance(target_modules, str):
        found = [(p, m) for p, m in layers if matches(target_modules, p)]
        missing = [] if found else [target_modules]
    elif target_modules:
        ends = list(target_modules)
        found = [(p, m) for p, m in layers if ends_in(p, ends)]
        missing = [e for e in ends if not any(ends_in(p, [e]) for p, _ in layers)]
    else:
        raise ValueError("name the layers to adapt in target_modules, a list of endings such as ['q_proj', 'v_proj']; "
                         + there_are(layers))
    if missing and not (lenient and found):
        hint = "a string is a regular expression for the whole name; did you mean a list? " \
            if isinstance(target_modules, str) and target_modules != "all-linear" else ""
        raise ValueError(f"no layer is called {short(missing[0])}: {hint}{there_are(layers)}")
    left = [(p, m) for p, m in found if not _excluded(p, exclude_modules) and _in_blocks(p, layers_to_transform, layers_pattern)]
    if not left:
        raise ValueError("exclude_modules, layers_to_transform and layers_pattern leave no layer of those that target_modules "
                         f"names: {', '.join(p for p, _ in found[:3])}{', ...' if len(found) > 3 else ''}")
    return left


def ends_in(path, ends):
    """Whether a path is one of these names, or ends in one."""
    return any(path == e or path.endswith("." + e) for e in ends)


def matches(pattern, path):
    """Whether the regular expression fits the whole path. Raises ValueError for one that is none, or that takes for ever."""
    try:
        return regex.fullmatch(pattern, path, timeout=1) is not None
    except TimeoutError as e:
        raise ValueError(f"the regular expression {short(pattern)} takes too long on {short(path)}: write a simpler one") from e
    except regex.error as e:
        raise ValueError(f"{short(pattern)} is not a regular expression: {e}") from e


def _excluded(path, exclude_modules):
    if isinstance(exclude_modules, str):
        return matches(exclude_modules, path)
    return ends_in(path, exclude_modules or ())


def _in_blocks(path, layers_to_transform, layers_pattern):
    """Whether the first number in the path, behind one of the patterns, is among those to transform."""
    if layers_to_transform is None or layers_to_transform == []:
        return True
    wanted = [layers_to_transform] if isinstance(layers_to_transform, int) else layers_to_transform
    patterns = [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern
    for pattern in patterns or [r"[^.]*"]:
        found = regex.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", path, timeout=1)
        if found:
            return int(found[1]) in wanted
    return False


def short(value):
    """A value as it may stand in a message: on one line, and not too long."""
    text = repr(value)
    return text if len(text) < 200 else f"{text[:196]}..."


def there_are(layers):
    """A sentence with the endings of the layers' names, in order of appearance, without block numbers."""
    names = {}
    for path, layer in layers:
        end = path.split(".")[-1]
        if len(layer._parameters) and not end.isdigit():
            names.setdefault(end, type(layer).__name__)
    return "the layers end in " + ", ".join(f"{n} ({t})" for n, t in names.items())


def input_table(model):
    """The embedding of a model's token ids, or None."""
    return _asked(model, "get_input_embeddings")


def output_table(model):
    """The layer that turns hidden states into scores of tokens, or None."""
    return _asked(model, "get_output_embeddings")


def _asked(model, get):
    try:
        return getattr(model, get, lambda: None)()
    except NotImplementedError:                              # a model of speech or of pictures says so
        return None


def only_read(layer):
    """Whether a layer's weight is used without the layer being called, as nn.MultiheadAttention uses its out_proj."""
    return isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear)


def copied(model, modules_to_save):
    """The (path, layer) pairs to train as copies: layers with parameters of their own, also those inside a block."""
    blocks = targets(model, modules_to_save) if modules_to_save else ()
    return list({id(layer): (f"{path}.{inner}".rstrip("."), layer) for path, block in blocks
                 for inner, layer in block.named_modules() if layer._parameters and not is_ours(inner)}.values())


def adapted(model, name=None):
    """The (path, layer) pairs that carry adapters, or the adapter `name`."""
    return [(p, m) for p, m in model.named_modules()
            if "adapters" in m._modules and "hooks" in m.__dict__ and (name is None or name in m.adapters)]


def is_ours(path):
    """Whether this path leads into an adapter."""
    return ".adapters." in f".{path}." or ".virtual_tokens." in f".{path}."
