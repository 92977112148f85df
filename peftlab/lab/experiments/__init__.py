"""Experiments whose runs are recorded: one file each, with `plan` and `run`; see `peftlab.lab.records`."""
