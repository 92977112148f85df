"""Adapters in the checkpoints of transformers' Trainer (and of whatever else takes its callbacks)."""

from pathlib import Path

from transformers import TrainerCallback

from peftlab.files import save


class SaveAdapter(TrainerCallback):
    """Writes the adapters that are switched on into each checkpoint: checkpoint-N/adapters/NAME, which `pl.load` and `peft` read.

    The checkpoint itself holds the base and the adapters together. `trainer.train(resume_from_checkpoint=...)` reads that and
    goes on where it stopped; the same adapters must be attached before. `from_pretrained` of a checkpoint gives the *base*: it
    knows no adapters and says that their tensors were not used. Load the base, and then the adapter from its folder.
    """

    def on_save(self, args, state, control, model=None, **more):
        for name in model.switch.active:
            save(model, Path(args.output_dir) / f"checkpoint-{state.global_step}" / "adapters" / name, name)
