"""P-tuning: virtual tokens that a small network makes, [MLP(E); E(text)] (Liu et al., arXiv 2103.10385).

Trains n d numbers that enter the network and its 2 d h + h (h + 2) + d weights, h its width; only the n d that leave it are
needed afterwards, and only they are saved. It does not start as the base model and cannot be merged.
"""
from torch import nn

from peftlab.adapter import Format
from peftlab.virtual_tokens import VirtualTokens


class PTuning(VirtualTokens):
    """n embeddings in front of the text, made by an MLP of three layers while they are trained.

    Loaded from a file they are plain trained embeddings: the network that made them is not in there.
    """

    keys = {"made": "prompt_embeddings"}
    in_peft = Format("P_TUNING")

    def __init__(self, model, num_virtual_tokens=20, encoder_hidden_size=None):
        super().__init__(model, num_virtual_tokens)
        d = model.get_input_embeddings().weight.shape[1]
        h = encoder_hidden_size or d
        self.embedding = nn.Embedding(num_virtual_tokens, d)                          # (n, d)
        self.mlp_head = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, d))

    @property
    def made(self):
        return self.encoded if hasattr(self, "encoded") else self.mlp_head(self.embedding.weight)

    def embeddings(self):
        return self.made

    def drop_encoder(self):
        """Keep what the network makes, as a parameter in its place: a file of `peft` holds that and no network."""
        self.encoded = nn.Parameter(self.made.detach().clone())
        del self.embedding, self.mlp_head

    @staticmethod
    def count(config, num_virtual_tokens=20, encoder_hidden_size=None, **options):
        d = config.hidden_size
        h = encoder_hidden_size or d
        return num_virtual_tokens * d + 2 * d * h + h * (h + 2) + d
