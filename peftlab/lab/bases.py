"""Pretrained models to adapt: the project's own three, any id of the Hugging Face Hub, any local folder."""

import json
import os
import shutil
import warnings
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from .sources import STAMP, SourceError, fast_copy, fetch, whole

_OURS = "The project's own bases are minilm-l6, smollm2-135m and polyglot-350k; a local folder or a Hub id works too."
BASES = ("minilm-l6", "smollm2-135m", "polyglot-350k")


def load_base(name: str | os.PathLike, **kwargs):
    """A pretrained model in eval mode and its tokenizer, `(model, tokenizer)`.

    Args:
        name: "minilm-l6" (BertModel), "smollm2-135m" (LlamaForCausalLM) or "polyglot-350k", in float32, the same weights
            for every reader; or a local folder; or an id on the Hugging Face Hub. The class is the one its configuration
            names, so that a sequence classifier comes back as one.
        kwargs: for `from_pretrained`: dtype, device_map, attn_implementation, revision, ...

    Raises:
        SourceError: no such base, or it cannot be fetched; says what to do.
    """
    set_threads()
    name = os.fspath(name)
    if name in BASES:
        with _quiet():
            folder, kwargs = _folder(name), {"dtype": torch.float32, **kwargs}
            model, tokenizer = (
                _load(folder, **kwargs) if (folder / "config.json").is_file() else _from_gguf(folder, **kwargs)
            )
        model.config._name_or_path = model.name_or_path = name  # what `save` writes as the base of an adapter
        return model.eval(), tokenizer
    if "/" not in name and not Path(name).exists() and (near := get_close_matches(name, BASES, n=1, cutoff=0.6)):
        raise SourceError(f"there is no base {name!r}; did you mean {near[0]!r}? {_OURS}")
    try:
        model, tokenizer = _load(name, **kwargs)
    except (OSError, ValueError) as error:  # transformers' words for: not found, not reachable, not allowed, no model
        raise SourceError(_not_found(name, error)) from error
    return model.eval(), tokenizer


def set_threads():
    """How many threads torch computes with: PEFTLAB_THREADS if that is set, else all cores but one.

    A thread that finds its core busy keeps all others waiting: with one other process at work on two cores, a training
    step on two threads was seen to take over twenty times as long as on one.
    """
    torch.set_num_threads(int(os.environ.get("PEFTLAB_THREADS") or max(1, (os.cpu_count() or 1) - 1)))


def _load(folder, **kwargs):
    # what both the configuration and the tokenizer must know of the keywords
    shared = {
        k: kwargs[k] for k in ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code") if k in kwargs
    }
    config = AutoConfig.from_pretrained(folder, **shared)
    architecture = (config.architectures or [""])[0]
    model = getattr(transformers, architecture, AutoModel).from_pretrained(folder, **kwargs)
    return model, AutoTokenizer.from_pretrained(folder, **shared)


def _folder(name: str) -> Path:
    """The folder of a base of ours that loads fastest: for a gguf, the copy made of it."""
    folder, copy = fetch(name), fast_copy(name)
    if copy is None:
        return folder
    if not whole(copy):
        try:
            _make_copy(folder, copy)
        except OSError as error:
            warnings.warn(
                f"no fast copy of {name} in {copy.parent} ({error}): it loads slowly every time", stacklevel=3
            )
            return folder
    return copy


def _make_copy(folder: Path, copy: Path):
    """Save the dequantised model beside its gguf, whole or not at all."""
    part = copy.with_name(f".{copy.name}.{os.getpid()}.part")
    model, tokenizer = _from_gguf(folder, dtype=torch.float32)
    need = sum(p.numel() * p.element_size() for p in model.parameters()) + 50 * 2**20
    if (free := shutil.disk_usage(copy.parent).free) < need:
        raise OSError(f"{free / 1e6:,.0f} MB free, {need / 1e6:,.0f} MB needed")
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / STAMP).write_text(json.dumps({file.name: file.stat().st_size for file in part.iterdir()}))
        if copy.exists() and not whole(copy):
            shutil.rmtree(copy)
        os.replace(part, copy)
    except OSError:
        if not whole(copy):  # else another process was first: just as good
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _from_gguf(folder: Path, **kwargs):
    gguf = next(folder.glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, **kwargs)
    # the weights are plain floats now; left marked as quantised, transformers refuses .float() and saving
    del model.config.quantization_config, model.quantization_method
    model.is_quantized, model.hf_quantizer = False, None
    tokenizer.model_max_length = model.config.max_position_embeddings
    return model, tokenizer


@contextmanager
def _quiet():
    """No progress bars of transformers for models that load in a second: they would end up in every lesson's output."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()


def _not_found(name: str, error: Exception) -> str:
    path = Path(name).expanduser()
    if (path / "adapter_config.json").is_file():
        return f"{name} holds an adapter, not a model: load its base, then the adapter with `pl.load(model, {name!r}, name=...)`"
    if path.is_dir():
        return f"no model could be loaded from the folder {path}: {_first_line(error)}"
    if transformers.utils.hub.is_offline_mode():
        return (
            f"{name!r} is not here, and HF_HUB_OFFLINE=1 forbids asking the Hub for it: unset it to download. {_OURS}"
        )
    return f"{name!r} could not be loaded. There is no such folder here, and the Hub: {_first_line(error)} {_OURS}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
