"""PEFTLab: parameter-efficient fine-tuning from scratch, proved equal to the library.

The core and the methods need torch alone and are here at once; the lab and the classroom come when they are first used.
"""
from importlib import import_module

from peftlab import methods
from peftlab.adapter import Adapter
from peftlab.attach import attach, detach
from peftlab.combine import combine
from peftlab.count import closed_form, count, multiplications, saved_activations
from peftlab.files import load, save
from peftlab.merge import merge, unmerge
from peftlab.use import mix, use
from peftlab.virtual_tokens import VirtualTokens

__version__ = "0.1.0"
__all__ = ["Adapter", "VirtualTokens", "attach", "check", "classroom", "closed_form", "combine", "count", "detach", "lab",
           "load", "merge", "methods", "mix", "multiplications", "save", "saved_activations", "unmerge", "use"]


def __getattr__(name):
    if name in ("lab", "classroom"):
        return import_module(f"peftlab.{name}")
    if name == "check":
        return import_module("peftlab.classroom").check
    raise AttributeError(f"module 'peftlab' has no attribute {name!r}")
