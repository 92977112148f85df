"""The one idea of this package: an adapter is what you do before and after a frozen layer."""
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Format:
    """How a method stands in the files of `peft`, beside the names of its tensors."""

    peft_type: str = ""                             # what adapter_config.json calls the method
    fixed: dict = field(default_factory=dict)       # fields that have one value for this method
    unused: tuple = ()                              # fields that `peft` writes and does not use
    repeated: tuple = ()                            # ends of names that stand there once more for every layer; not read
    one_target: bool = False                        # whether target_modules is one name, not a list or a pattern


class Adapter(nn.Module):
    """A small trainable module on one frozen layer that computes y = layer(x).

    A method is a subclass with an `__init__` that makes its parameters and a `before`, an `after`, or both.
    The keywords of `__init__` are the field names of the method's `peft` configuration. Two more functions are optional:
    `share(adapters)`, which gives the adapters of all layers what they have in common, and `attend(q)`, for what is added
    inside attention (attention.py).
    """

    def __init__(self, layer):
        super().__init__()
        object.__setattr__(self, "layer", layer)             # a plain reference: the layer is not our child

    def before(self, x):
        """What enters the layer instead of `x`, of the same shape."""
        return x

    def after(self, x, y):
        """What leaves it instead of `y`, of the same shape; `x` is what went in, after `before`."""
        return y

    argument = 0        # which positional argument of the layer is x
    keys = {}           # our tensor's name -> the end of its name in the file, or all of it ("base_model.") if shared
    in_peft = Format()

    @classmethod
    def among(cls, layers, **options):
        """Those of the targeted (path, layer) pairs that the method goes on."""
        return layers

    @classmethod
    def for_layer(cls, layer):
        """The class that goes on this layer: a method may need another one for an embedding than for a linear layer."""
        return cls

    @classmethod
    def per_layer(cls, path, **options):
        """The options for the layer at `path`, where a method's options differ from layer to layer."""
        return options

    @staticmethod
    def count(d_in, d_out, **options):
        """The number of trained parameters on a layer of that shape, in closed form."""
        raise NotImplementedError("this method has no closed form for its parameters yet")

    @staticmethod
    def count_shared(layers, **options):
        """What so many layers train together, beside what each trains alone."""
        return 0

    def verify(self):
        """Called with the numbers of a file in place: raise ValueError if they make no sense."""

    @classmethod
    def count_layer(cls, layer, **options):
        """The same for a given layer."""
        return cls.count(*shape(layer), **options)

    @property
    def weight(self):
        """The frozen weight as `(d_out, d_in)`, however the layer stores it."""
        W = self.layer.weight.detach()
        return W.T if is_conv1d(self.layer) else W

    @property
    def shape(self):
        """`(d_in, d_out)` of the layer."""
        return shape(self.layer)


def is_conv1d(layer):
    """Whether this is transformers' Conv1D, GPT-2's linear layer with a weight of (d_in, d_out); told by its name, so
    that importing this package does not import all of transformers."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def shape(layer):
    """`(d_in, d_out)`: widths of what enters and leaves a layer, or a block of layers.

    Raises TypeError for a layer whose widths cannot be read from it.
    """
    if is_conv1d(layer):
        return layer.nx, layer.nf
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor) and weight.dim() == 1:                # LayerNorm, RMSNorm
        return len(weight), len(weight)
    inside = [m for path, m in layer.named_modules() if (isinstance(m, nn.Linear) or is_conv1d(m))
              and ".adapters." not in f".{path}"]                             # those of other adapters are not the block's
    if inside:                                                                # a block, such as `mlp`
        return shape(inside[0])[0], shape(inside[-1])[1]
    raise TypeError(f"cannot tell the width of a {type(layer).__name__}: attach to a linear layer, a norm or a block")


def linear(layer):
    """`(d_in, d_out)` of a linear layer; TypeError with advice for anything else."""
    if not (isinstance(layer, nn.Linear) or is_conv1d(layer)):
        raise TypeError(f"this method changes a linear layer, and a {type(layer).__name__} is none: "
                        "target nn.Linear or Conv1D layers, or target_modules='all-linear'")
    return shape(layer)


def embedding_scale(layer):
    """What an embedding multiplies its rows by: 1, if it is not one of those that scale them, as Gemma's does."""
    return getattr(layer, "embed_scale", 1.0)


def without_adapters(layer, x):
    """What the frozen layer alone makes of `x`, past the adapters on it, computed in its own precision."""
    own = next(layer.parameters(recurse=False), x)
    return layer.forward(x.to(own.dtype) if own.is_floating_point() else x).to(x.dtype)


class FullFineTuning(Adapter):
    """y = copy(x): a trainable copy of the layer itself, which `peft` calls `modules_to_save`.

    Trains all parameters of the layer. On the head alone this is the baseline "head only"; on every layer it is full fine-tuning that can be switched off.
    The frozen layer still runs beside its copy: to measure the cost of full fine-tuning, train the model in place.
    """

    def __init__(self, layer):
        super().__init__(layer)
        if not layer._parameters:
            raise TypeError(f"a {type(layer).__name__} has no parameters of its own to copy: name the layers inside it")
        if any(True for name, child in layer.named_children() if name != "adapters" for _ in child.parameters()):
            raise TypeError(f"a {type(layer).__name__} has parameters of its own and layers inside, and cannot be copied as one: name "
                            "other layers")
        if getattr(layer, "weight", None) is not None and "weight" not in layer._parameters:
            raise TypeError(f"the weight of this {type(layer).__name__} is stored in a form that cannot be trained: "
                            "leave the layer out when you quantize the model")
        self.copy = bare_copy(layer)

    @property
    def keys(self):
        return {f"copy.{name}": name for name in self.copy.state_dict()}              # with the statistics of a BatchNorm

    def after(self, x, y):
        return self.copy(x)

    @classmethod
    def count_layer(cls, layer, **options):
        return sum(p.numel() for p in layer._parameters.values() if p is not None)


def bare_copy(layer):
    """A trainable copy of one layer, its parameters and settings, without what hangs on it (hooks, adapters)."""
    new = type(layer).__new__(type(layer))
    nn.Module.__init__(new)
    ours = ("switch", "hooks", "unmerged", "held", "training", "forward")    # of attach.py; forward: put there by accelerate
    new.__dict__.update({k: v for k, v in layer.__dict__.items() if not k.startswith("_") and k not in ours})
    for name, p in layer._parameters.items():
        new.register_parameter(name, None if p is None else nn.Parameter(p.detach().clone()))
    for name, b in layer._buffers.items():
        new.register_buffer(name, None if b is None else b.clone(), persistent=name not in layer._non_persistent_buffers_set)
    return new
