"""An error in words: which cell and line, the shapes that met, and what errors of this kind come from."""

import linecache
import re
import sysconfig
import traceback
from pathlib import Path

import torch

HERE = str(Path(__file__).parents[2])
NOT_OURS = (HERE, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"], "<frozen")
ADVICE = re.compile(
    r"\s*(Use \.\w+\(.*?\) instead\.?|Did you mean:?.*|Consider .*|Maybe you.*|This can be fixed by.*|Hint:.*)$"
)
COMMON = [
    (r"view size is not compatible", "`view` reads on in memory, and after a turn (`.T`, `transpose`, `permute`) the numbers no longer lie in that order. What is needed here, another cut or another turn?"),
    (r"mat1 and mat2|size mismatch|inconsistent tensor size|expected m1 and m2|cannot be multiplied|vec \(", "Which two sizes must be the same in that product, and which matrix is to be turned?"),
    (r"must match the size of tensor|not broadcastable|must match the existing size|shape mismatch", "Sizes are matched from the last dimension on. Which two met there, and which should have?"),
    (r"does not require grad and does not have a grad_fn", "What is to be differentiated is not connected with anything trained. Where was it detached, or made under `no_grad`?"),
    (r"leaf [Vv]ariable that requires grad", "A trained tensor is written into while its gradient is recorded. Is a new tensor wanted, or a change that the graph should not see?"),
    (r"modified by an inplace operation", "Something that the backward pass needs was overwritten. Which line ends in `_` or assigns into a tensor?"),
    (r"same dtype|expected scalar type|dtype mismatch|found dtype|Index put requires|must have the same dtype", "Two types of number meet there. Which tensor was made without saying its type?"),
    (r"shape of the mask", "A tensor of yes and no, or of bytes, is taken as a mask: it must be as long as what it picks from. Is a mask wanted, or places, which are int64?"),
    (r"(list|tuple) indices must be integers or slices, not str", "A list knows its items by their places and not by names. Which of its items has that name?"),
    (r"(list|tuple) indices must be integers or slices, not", "A list is cut along one dimension only. What is each of its items, and what is to be taken of it?"),
    (r"only integer tensors|used as indices must be|indices must be integers", "What stands in the brackets are no whole numbers or yes and no. What was it to pick?"),
    (r"Boolean value of Tensor with more than one value", "A whole tensor is asked for one yes or no. Is it to hold for all entries, for any, or for each on its own?"),
    (r"only one element tensors|a Tensor with \d+ elements cannot be converted", "A single number is wanted there and a tensor has several. Over what is it to be summed up?"),
    (r"'NoneType'|NoneType", "Something is None there: a layer without a bias has `bias = None`, and a function without `return` gives None. Which is it?"),
    (r"[Dd]imension out of range", "That dimension does not exist for this input: it may have any number of leading dimensions. From which end can it be counted?"),
    (r"out of (range|bounds)|index \d+ is out", "Something is asked for beyond the end. Where does counting begin, and where does it end?"),
    (r"too many indices", "There are more places in the brackets than dimensions. How many dimensions has it in this case?"),
    (r"unhashable", "A list, dict or tensor can be no key and no member of a set. What of it could be?"),
    (r"'generator'", "A generator can be walked through once, and has no length and no places. What is needed of it more than once?"),
    (r"Expected all tensors to be on the same device|device", "Two tensors live on different devices. Which one was made without saying where?"),
    (r"positional argument|unexpected keyword|required keyword|takes .* arguments", "The check calls your function with the arguments that the task names, in that order. Which of them does yours not have?"),
    (r"division by zero", "What is the divisor in this case, and what should come out then?"),
    (r"at least (one|two) data point|requires at least|empty (sequence|argument|tensor|list)|non-empty", "There is nothing, or only one thing, in this case. What should come out then?"),
    (r"is not defined", "That name is not known where the line runs. Is it spelt as it is elsewhere, and does the cell that makes it come before?"),
    (r"referenced before assignment|cannot access local variable", "In this case no line has given that name a value yet. Which branch passes it over?"),
    (r"object is not callable", "What stands before the brackets is no function there. Which name was used twice?"),
    (r"is not iterable|non-iterable", "A single thing stands where several are walked through. What should it be a list of?"),
    (r"not subscriptable", "What stands before the square brackets has no entries. What kind of thing is it in this case?"),
    (r"has no attribute", "What kind of thing stands before that dot, in this case?"),
    (r"unsupported operand|can only concatenate|must be (str|Tensor|tuple)", "Two things meet there that can't be joined in this way. What kind of thing is each of them?"),
    (r"maximum recursion", "Your function calls itself without end. What should stop it?"),
    (r"not enough values to unpack|too many values to unpack", "How many things come from the right-hand side, and how many names wait on the left? (To walk through a dict gives its keys alone.)"),
    (r"invalid for input of size|cannot reshape|split_with_sizes|shape '\[", "The numbers do not fill that shape. What do its sizes multiply to, and how many numbers are there?"),
    (r"dictionary changed size|changed during iteration", "What is walked through is changed on the way. What could be walked through instead?"),
    (r"zero-dimensional tensor|0-d tensor|iteration over a 0-d", "A single number has no dimensions to walk through or to join. In which case does it arise?"),
    (r"einsum", "Each letter stands for one size. Which letter is given two sizes here, or which dimension has none?"),
    (r"must be Tensor|must be tensor|not (an? )?[Tt]ensor|expected Tensor", "A tensor is wanted there. What is it instead?"),
]  # fmt: skip
BY_TYPE = {
    "KeyError": "That key is not in there. What are the keys, in this case?",
    "IndexError": "Something is asked for beyond the end. Where does counting begin, and where does it end?",
    "StopIteration": "There is nothing left to take. Has it been walked through before?",
    "AssertionError": "Your own assertion does not hold in this case. What does it assume of the input?",
    "TypeError": "What kind of thing is each of the values on that line?",
    "ValueError": "Which value on that line is not what the call expects?",
}


def explain(error, exercise=None):
    """The error in a few sentences, with the learner's own line; frames of libraries are left out."""
    text = ADVICE.sub("", str(error).strip().split("\n")[0][:300]).strip()
    kind = type(error).__name__
    said = f"{kind}: {text}" if text else kind
    ask = next((q for pattern, q in COMMON if re.search(pattern, text)), BY_TYPE.get(kind, ""))
    frames = [
        (f, at)
        for f, at in zip(traceback.extract_tb(error.__traceback__), _frames(error))
        if not f.filename.startswith(NOT_OURS)
    ]
    if not frames:
        return f"{said}. {ask}".strip() if ask else said
    summary, frame = frames[-1]
    line = (summary.line or linecache.getline(summary.filename, summary.lineno)).strip()
    cell = "your cell" if summary.filename == frames[0][0].filename else f"the cell that defines `{summary.name}`"
    met = _shapes(line, frame.f_locals, exercise)
    parts = [f"line {summary.lineno} of {cell}, `{line}`, raised {said}", met, ask]
    return ". ".join(p.rstrip(".") for p in parts[:2] if p) + (f". {ask}" if ask else "")


def _frames(error):
    at, out = error.__traceback__, []
    while at:
        out.append(at.tb_frame)
        at = at.tb_next
    return out


def _shapes(line, names, exercise):
    """ "There `x` is (5, `d_in` = 7)": of the tensors on a line."""
    found = []
    for name in dict.fromkeys(re.findall(r"[A-Za-z_]\w*", line)):
        value = names.get(name)
        if isinstance(value, torch.Tensor):
            found.append(f"`{name}` is {_named(name, value, exercise)}")
        elif name in names and value is None:
            found.append(f"`{name}` is None")
    return f"There {', '.join(found[:5])}" if found else ""


def _named(name, value, exercise):
    if value.ndim == 0:
        return "a single number"
    words = ((getattr(exercise, "dims", None) or {}).get(name) or "").split()
    back = words[words.index("...") + 1 :] if "..." in words else words
    if not back or len(back) > value.ndim or ("..." not in words and len(back) != value.ndim):
        return str(tuple(value.shape))
    front = [str(n) for n in value.shape[: value.ndim - len(back)]]
    sizes = [*front, *(f"{w} = {n}" if not w.isdigit() else f"{n}" for w, n in zip(back, value.shape[len(front) :]))]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
