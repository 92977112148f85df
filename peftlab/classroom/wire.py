"""What an answer was observed to do, as bytes: JSON with the tensors beside it in safetensors. Nothing that can run.

A frame is one exercise: two lengths, then the JSON, then the tensors. What is read back holds plain Python values and
plain tensors only, so nothing in it can bring an `__eq__` of its own.
"""

import json
import struct

import torch
from safetensors.torch import load, save

from .exercise import Near

LENGTHS = struct.Struct(">II")
TEXT = 2**20  # bytes of JSON in a frame, and of the header of its tensors
FRAMES = 256  # that are read of one submission
PLAIN = (str, bool, int, float, type(None))


def pack(frame):
    """A dict of what `plain` knows, as bytes."""
    tensors = {}
    text = json.dumps(_flat(frame, tensors)).encode()
    data = save(tensors) if tensors else b""
    return LENGTHS.pack(len(text), len(data)) + text + data


def unpack(data):
    """Each frame in some bytes; whatever follows the last whole one is left out. A ValueError says what is wrong."""
    data, count = memoryview(data), 0
    while len(data) >= LENGTHS.size:
        text, tensors = LENGTHS.unpack_from(data)
        end = LENGTHS.size + text + tensors
        header = int.from_bytes(data[LENGTHS.size + text :][:8], "little") if tensors else 0
        if (count := count + 1) > FRAMES or text > TEXT or header > TEXT:
            raise ValueError("what came out of the sandbox can't be read (more of it than an exercise has)")
        if len(data) < end:
            break
        yield _frame(bytes(data[LENGTHS.size : LENGTHS.size + text]), bytes(data[LENGTHS.size + text : end]))
        data = data[end:]


def _frame(text, tensors):
    try:
        return _full(json.loads(text), load(tensors) if tensors else {})
    except Exception as e:  # whatever hostile bytes can cause
        raise ValueError(f"what came out of the sandbox can't be read ({type(e).__name__})") from e


def _flat(value, tensors):
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu").clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Near):
        return {"near": [float(value.value), float(value.rel)]}
    if isinstance(value, dict):
        return {"dict": [[_flat(k, tensors), _flat(v, tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list" if isinstance(value, list) else "tuple": [_flat(v, tensors) for v in value]}
    if isinstance(value, (set, frozenset)):
        return {"set": sorted((_flat(v, tensors) for v in value), key=repr)}
    if isinstance(value, PLAIN):
        return value
    return {"other": str(value)}  # a dtype, a shape: what it says is what is compared


def _full(value, tensors):
    if isinstance(value, PLAIN):
        return value
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return tensors[inside]
    if kind == "near":
        number, rel = inside
        return Near(float(number), float(rel))
    if kind == "dict":
        return {_full(k, tensors): _full(v, tensors) for k, v in inside}
    if kind == "other":
        return str(inside)
    return {"list": list, "tuple": tuple, "set": set}[kind](_full(v, tensors) for v in inside)
