"""PiSSA and OLoRA: LoRA that starts inside the weight, y = W x + s (B A - B0 A0) x with A = A0, B = B0 at the start.

PiSSA (Meng et al., arXiv 2404.02948) starts from the r largest singular values of W, OLoRA (Büyükakyüz, 2406.01775) from
its QR factors. `peft` takes s B0 A0 out of the base weight; here the base is not touched and the start is taken off again.
Trains r (d_in + d_out) parameters a layer. Starts as the base model; can be merged. `peft` cannot read the file, since
its own holds no start: `as_lora` makes a plain LoRA of rank 2 r of it, which it can.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Format, linear
from peftlab.attach import attach
from peftlab.layers import adapted
from peftlab.methods.lora import LoRA


class PiSSA(LoRA):
    """y = W x + s (B A - B0 A0) x, s B0 A0 = U S V^T, cut after the r largest singular values"""

    keys = {name: name for name in ("lora_A", "lora_B", "start_A", "start_B")}
    in_peft = Format()

    def __init__(self, layer, r=8, lora_alpha=8):
        if r > min(linear(layer)):
            raise ValueError(f"r {r} is larger than the rank that a weight of {linear(layer)} can have")
        super().__init__(layer, r, lora_alpha)
        A, B = self.start(self.weight.float(), r)
        self.lora_A, self.lora_B = nn.Parameter(A.contiguous()), nn.Parameter(B.contiguous())   # (r, d_in), (d_out, r)
        self.register_buffer("start_A", A.clone().contiguous(), persistent=False)
        self.register_buffer("start_B", B.clone().contiguous(), persistent=False)

    def start(self, W, r):
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        root = (S[:r] / self.scaling).sqrt()
        return root[:, None] * Vh[:r], U[:, :r] * root

    def after(self, x, y):
        return super().after(x, y) - self.scaling * F.linear(F.linear(x, self.start_A), self.start_B)


class OLoRA(PiSSA):
    """y = W x + s (B A - B0 A0) x, B0 and A0 the first r columns and rows of Q and R in W = Q R"""

    def start(self, W, r):
        Q, R = torch.linalg.qr(W)
        return R[:r], Q[:, :r]


def as_lora(model, name, new):
    """Put beside the adapter `name`, a PiSSA or OLoRA, a plain LoRA `new` of twice its rank that computes the same.

    Returns the model, with `new` switched on. Raises TypeError if `name` is another method's.
    """
    method, targets, options = model.switch.recipe[name]
    if not issubclass(method, PiSSA):
        raise TypeError(f"{name!r} is a {method.__name__}: only PiSSA and OLoRA have a start to be written down")
    r, alpha = options.get("r", 8), options.get("lora_alpha", 8)
    attach(model, LoRA, targets, new, options.get("modules_to_save"), r=2 * r, lora_alpha=2 * alpha)
    with torch.no_grad():
        for _, layer in adapted(model, new):
            old, plain = layer.adapters[name], layer.adapters[new]
            if isinstance(old, PiSSA):
                plain.lora_A.copy_(torch.cat((old.lora_A, old.start_A)))              # (2 r, d_in)
                plain.lora_B.copy_(torch.cat((old.lora_B, -old.start_B), 1))          # (d_out, 2 r)
            else:
                plain.load_state_dict(old.state_dict())                               # a head trained along
    return model
