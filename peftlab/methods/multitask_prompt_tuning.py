"""Multitask prompt tuning: a prompt for all tasks, times a matrix of low rank for each (Wang et al., arXiv 2303.02861).

P_k = P * (U_k V_k). Trains n d + T r (n + d) parameters, T the number of tasks and r a rank. It does not start as the base
model and cannot be merged.
"""
import torch
from torch import nn

from peftlab.adapter import Format
from peftlab.methods.prompt_tuning import PromptTuning
from peftlab.virtual_tokens import encoder_decoder


class MultitaskPromptTuning(PromptTuning):
    """n trained embeddings in front of the text, another product of one prompt for each task.

    The attribute `task`, from 0, says which task the text belongs to: `model.virtual_tokens[name].task = 2`. `peft` is told
    for each row, with `task_ids`.
    """

    in_peft = Format("MULTITASK_PROMPT_TUNING")
    keys = {k: k for k in ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows")}

    def __init__(self, model, num_virtual_tokens=20, num_tasks=1, num_ranks=1, prompt_tuning_init="RANDOM",
                 prompt_tuning_init_text=None, tokenizer=None):
        if encoder_decoder(model):
            raise ValueError("in an encoder-decoder model multitask prompts stand before the decoder's text as well, which is not "
                             "built here: use PromptTuning")
        super().__init__(model, num_virtual_tokens, prompt_tuning_init, prompt_tuning_init_text, tokenizer)
        n, d = self.prompt_embeddings.shape
        self.prefix_task_cols = nn.Parameter(0.02 * torch.randn(num_tasks, n, num_ranks))
        self.prefix_task_rows = nn.Parameter(0.02 * torch.randn(num_tasks, num_ranks, d))
        self.task = 0

    def embeddings(self):
        if not 0 <= self.task < len(self.prefix_task_cols):
            raise ValueError(f"task is {self.task}: there are {len(self.prefix_task_cols)} tasks, counted from 0")
        return self.prompt_embeddings * (self.prefix_task_cols[self.task] @ self.prefix_task_rows[self.task])   # (n, d)

    @staticmethod
    def count(config, num_virtual_tokens=20, num_tasks=1, num_ranks=1, **options):
        n, d = num_virtual_tokens, config.hidden_size
        return n * d + num_tasks * num_ranks * (n + d)
