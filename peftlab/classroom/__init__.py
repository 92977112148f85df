"""Exercises, their checks, and the learner's copies of the lessons."""

_where = {
    "check": "checking",
    "find": "exercise",
    "all_exercises": "exercise",
    "Exercise": "exercise",
    "predict": "predict",
    "board": "progress",
}
__all__ = list(_where)


def __getattr__(name):
    if name in _where:
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_where[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
