"""HiRA: y = W x + [W * (B A)] x, * elementwise (Huang et al., ICLR 2025, openreview TwJrTz9cRS).

The update inherits the rank of W, however small r is. Trains r (d_in + d_out) parameters a layer; starts as the base
model (B = 0); can be merged. It has no alpha and wants a larger learning rate than LoRA.
"""
import torch.nn.functional as F
from torch import empty, nn, zeros

from peftlab.adapter import Adapter, Format, linear


class HiRA(Adapter):
    """y = W x + [W * (B A)] x"""

    keys = {"hira_A": "hira_A", "hira_B": "hira_B"}
    in_peft = Format("HIRA")

    def __init__(self, layer, r=32):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.hira_A = nn.Parameter(nn.init.kaiming_uniform_(empty(r, d_in), a=5 ** 0.5))        # (r, d_in)
        self.hira_B = nn.Parameter(zeros(d_out, r))                                             # (d_out, r)

    def after(self, x, y):
        return y + F.linear(x, self.weight * (self.hira_B @ self.hira_A))

    @staticmethod
    def count(d_in, d_out, r=32):
        return r * (d_in + d_out)
