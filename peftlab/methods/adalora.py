"""AdaLoRA: y = W x + s B (E * A x), s = alpha / init_r, E a learnt diagonal (Zhang et al., arXiv 2303.10512).

All layers start with rank init_r. While training goes on, the triplets (a row of A, an entry of E, a column of B) that
matter least are switched off, wherever they are, until target_r a layer are left on average. Trains
r (d_in + d_out) + r parameters a layer, r = init_r; starts as the base model (E = 0); can be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Adapter, Format, linear
from peftlab.methods.adalora_budget import Scores, budget, choose


class AdaLoRA(Adapter):
    """y = W x + s B (E * A x)

    The training loop adds every `penalty` to the loss, and calls every `after_step` between the optimizer's step and the
    clearing of the gradients. The budget is how many triplets of all layers stay on. tinit steps at the start and tfinal
    at the end leave it as it is; in between it falls as a cubic, and every deltaT steps the triplets are chosen anew: one
    that was off still had its gradient and can come back, until the last choice. total_step is the number of steps; the
    loop knows it, `peft` loads only files that have it.
    """

    keys = {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"}
    in_peft = Format("ADALORA", unused=("r",))

    def __init__(self, layer, init_r=12, target_r=8, lora_alpha=8, lora_dropout=0.0, tinit=0, tfinal=0, deltaT=1,
                 beta1=0.85, beta2=0.85, orth_reg_weight=0.5, total_step=None):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        self.lora_A = nn.Parameter(0.02 * torch.randn(init_r, d_in))                  # (r, d_in)
        self.lora_B = nn.Parameter(0.02 * torch.randn(d_out, init_r))                 # (d_out, r)
        self.lora_E = nn.Parameter(torch.zeros(init_r, 1))                            # (r, 1)
        self.register_buffer("kept", torch.ones(init_r, 1, dtype=torch.bool), persistent=False)
        self.dropout, self.scaling = nn.Dropout(lora_dropout), lora_alpha / (init_r + 1e-5)     # 1e-5: as in `peft`
        self.target_r, self.tinit, self.tfinal, self.deltaT = target_r, tinit, tfinal, deltaT
        self.total_step = total_step
        self.orth_reg_weight, self.scores = orth_reg_weight, Scores(self.triplets(), beta1, beta2)

    def after(self, x, y):
        return y + self.scaling * (self.dropout(x) @ (self.lora_A * self.lora_E).T @ self.lora_B.T)

    def triplets(self):
        return {"A": self.lora_A, "B": self.lora_B, "E": self.lora_E}

    @staticmethod
    def share(adapters):
        """All adapters stand in one contest."""
        for a in adapters:
            object.__setattr__(a, "together", adapters)

    def penalty(self):
        """What is added to the loss: rows of A, and columns of B, are to be orthonormal: then none does another's work."""
        one = torch.eye(len(self.lora_A), device=self.lora_A.device)
        off = (self.lora_A @ self.lora_A.T - one).norm() + (self.lora_B.T @ self.lora_B - one).norm()
        return self.orth_reg_weight * off / (2 * len(self.together))

    @torch.no_grad()
    def after_step(self, step, steps):
        """Keep the scores; the last adapter, when all have theirs, holds the contest. `step` counts from 1."""
        if self.total_step not in (None, steps):
            raise ValueError(f"total_step is {self.total_step} and training takes {steps} steps: they must agree")
        end = steps - self.tfinal
        if self.tinit >= end:
            raise ValueError(f"{steps} steps leave no time to share out the ranks: tinit is {self.tinit}, tfinal "
                             f"{self.tfinal}. Train longer or lower them")
        if step < end:
            self.scores.update(self.triplets())
        if self is self.together[-1] and (step == end or self.tinit < step < end and step % self.deltaT == 0):
            everything = sum(len(a.lora_E) for a in self.together)
            choose(self.together, everything - budget(step, self.tinit, end, everything, self.target_r * len(self.together)))
        if step > end:
            self.lora_E.masked_fill_(~self.kept, 0.0)

    @classmethod
    def per_layer(cls, path, rank_pattern=None, **options):
        """`rank_pattern`, in a file of `peft`: which triplets of a layer it kept. Only those are there, as large as before."""
        if rank_pattern:
            r, kept = options.get("init_r", 12), sum(rank_pattern[f"{path}.lora_E"])
            options |= {"init_r": kept, "lora_alpha": options.get("lora_alpha", 8) * (kept + 1e-5) / (r + 1e-5)}
        return options

    @staticmethod
    def count(d_in, d_out, init_r=12, **options):
        return init_r * (d_in + d_out) + init_r
