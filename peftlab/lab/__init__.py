"""What an experiment needs: bases, texts, training, figures. Each name is imported when it is first used."""

from importlib import import_module

_HOME = {  # name -> the module that has it
    "advise": "adviser",
    "load_base": "bases",
    "set_threads": "bases",
    "MeanPoolClassifier": "heads",
    "embed": "heads",
    "DOMAINS": "texts",
    "four_domains": "texts",
    "sentiment": "texts",
    "retrieval": "texts",
    "train": "training",
    "SaveAdapter": "checkpoints",
    "SourceError": "sources",
    "fetch": "sources",
}
_MODULES = ("bases", "claims", "figures", "heads", "polyglot", "records", "sources", "texts", "training", "widgets")


def __getattr__(name: str):
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*_HOME, *_MODULES])
