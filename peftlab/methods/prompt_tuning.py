"""Prompt tuning: the model reads [P; E(text)], P trained, everything else frozen (Lester et al., arXiv 2104.08691).

Trains n d parameters: n virtual tokens of width d. It does not start as the base model and cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Format
from peftlab.virtual_tokens import VirtualTokens


class PromptTuning(VirtualTokens):
    """n trained embeddings in front of the text.

    prompt_tuning_init: "RANDOM" draws them from N(0, 1), `peft`'s default and far larger than real embeddings;
    "SAMPLE_VOCAB" copies the embeddings of random tokens; "TEXT" those of `prompt_tuning_init_text`, which needs
    `tokenizer`, repeated or cut to length.
    """

    keys = {"prompt_embeddings": "prompt_embeddings"}
    in_peft = Format("PROMPT_TUNING")

    def __init__(self, model, num_virtual_tokens=20, prompt_tuning_init="RANDOM", prompt_tuning_init_text=None,
                 tokenizer=None):
        super().__init__(model, num_virtual_tokens)
        table, n = model.get_input_embeddings().weight, num_virtual_tokens            # (vocabulary, d)
        if prompt_tuning_init == "RANDOM":
            P = torch.randn(n, table.shape[1])
        elif prompt_tuning_init == "SAMPLE_VOCAB":
            P = table[torch.randint(len(table), (n,))]
        elif prompt_tuning_init == "TEXT":
            if not prompt_tuning_init_text or tokenizer is None:
                raise ValueError("prompt_tuning_init='TEXT' needs prompt_tuning_init_text and the tokenizer")
            ids = tokenizer(prompt_tuning_init_text, add_special_tokens=False).input_ids
            P = table[torch.tensor([ids[i % len(ids)] for i in range(n)])]
        else:
            raise ValueError(f"prompt_tuning_init is 'RANDOM', 'SAMPLE_VOCAB' or 'TEXT', not {prompt_tuning_init!r}")
        self.prompt_embeddings = nn.Parameter(P.detach().clone().float())             # (n, d)

    def embeddings(self):
        return self.prompt_embeddings

    @staticmethod
    def count(config, num_virtual_tokens=20, **options):
        return num_virtual_tokens * config.hidden_size
