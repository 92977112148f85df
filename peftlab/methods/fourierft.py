"""FourierFT: y = W x + s Re(F^-1 C) x, C zero but for n learnt entries (Gao et al., arXiv 2405.03003).

The update is made of n waves over the whole weight. Trains n parameters a layer, whatever its size. By default the
coefficients start as N(0, 1), so it does not start as the base model. Can be merged.
"""
import torch
import torch.nn.functional as F
from torch import nn

from peftlab.adapter import Adapter, Format, linear


class FourierFT(Adapter):
    """y = W x + s Re(F^-1 C) x"""

    keys = {"fourierft_spectrum": "fourierft_spectrum"}
    in_peft = Format("FOURIERFT")

    def __init__(self, layer, n_frequency=1000, scaling=150.0, random_loc_seed=777, init_weights=False):
        super().__init__(layer)
        d_in, d_out = linear(layer)
        if n_frequency > d_in * d_out:
            raise ValueError(f"n_frequency {n_frequency} is more than the {d_in * d_out} entries of the weight")
        every = torch.randperm(d_in * d_out, generator=torch.Generator().manual_seed(random_loc_seed))
        places = every[:n_frequency].clone()               # a slice would keep the whole permutation waiting
        self.register_buffer("places", places, persistent=False)                      # (n,), which waves
        self.fourierft_spectrum = nn.Parameter(torch.zeros(n_frequency) if init_weights else torch.randn(n_frequency))
        self.scaling = scaling

    def after(self, x, y):
        d_in, d_out = self.shape
        C = self.fourierft_spectrum.new_zeros(d_out * d_in).index_put((self.places,), self.fourierft_spectrum)
        return y + F.linear(x, self.scaling * torch.fft.ifft2(C.view(d_out, d_in)).real)

    @staticmethod
    def count(d_in, d_out, n_frequency=1000, **options):
        return n_frequency
