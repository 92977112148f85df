"""Two observations side by side: do they agree, and if not, how far apart and where?"""

import math

import torch

from .exercise import Near

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def show(value):
    """A short text for a value in a message."""
    if isinstance(value, torch.Tensor):
        if value.numel() == 1:
            return show(value.item())
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Near):
        return show(value.value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        text = ", ".join(show(v) for v in value[:12]) + (f", and {len(value) - 12} more" if len(value) > 12 else "")
        return f"[{text}]" if value else "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {show(v)}" for k, v in list(value.items())[:12]) + "}" if value else "none"
    return str(value)


def close(seen, expected, rel):
    if math.isnan(seen) or math.isnan(expected):
        return math.isnan(seen) and math.isnan(expected)
    if math.isinf(seen) or math.isinf(expected):
        return seen == expected  # a share of infinity would let anything pass
    return seen == expected or abs(seen - expected) <= rel * max(abs(expected), 1e-12)


def difference(seen, expected):
    """None when the two agree, else a sentence: what was seen, what was expected, largest difference, where."""
    if isinstance(expected, torch.Tensor):
        return _tensors(seen, expected)
    if isinstance(expected, Near):
        value = seen.value if isinstance(seen, Near) else seen
        if isinstance(value, (int, float)) and close(value, expected.value, expected.rel):
            return None
        return f"{show(seen)}; expected about {show(expected)}"
    if isinstance(expected, bool) or isinstance(seen, bool):
        return None if seen is expected else f"{show(seen)}; expected {show(expected)}"
    if isinstance(expected, (int, float)) and isinstance(seen, (int, float)):
        return None if close(seen, expected, 1e-6) else f"{_number(seen)}; expected {_number(expected)}"
    if isinstance(expected, (list, dict)) and type(seen) is type(expected):
        return None if seen == expected else _collections(seen, expected)
    return None if type(seen) is type(expected) and seen == expected else f"{show(seen)}; expected {show(expected)}"


def _number(x):
    return f"{x:,}" if isinstance(x, int) else show(x)


def _collections(seen, expected):
    if isinstance(expected, dict):
        parts = [
            f"{k}: {difference(seen[k], expected[k])}"
            for k in expected
            if k in seen and difference(seen[k], expected[k])
        ]
        if parts:
            return "; ".join(parts[:4])
        if not (set(seen) ^ set(expected)):
            return None
    extra = [v for v in seen if v not in expected]
    missing = [v for v in expected if v not in seen]
    if extra or missing:
        return "; ".join(
            [f"{show(extra)} should not be there"] * bool(extra) + [f"{show(missing)} is missing"] * bool(missing)
        )
    return f"{show(seen)}; expected {show(expected)}"


def _tensors(seen, expected):
    if not isinstance(seen, torch.Tensor):
        return f"{show(seen)}; expected {show(expected)}"
    if seen.shape != expected.shape:
        return f"shape {tuple(seen.shape)}; expected {tuple(expected.shape)}"
    if seen.dtype != expected.dtype:
        return f"dtype {str(seen.dtype)[6:]}; expected {str(expected.dtype)[6:]}"
    if expected.numel() == 0:
        return None
    a, b = seen.detach().double(), expected.detach().double()
    gap = (a - b).abs()
    gap = torch.where((a == b) | torch.isnan(a) & torch.isnan(b), 0.0, torch.nan_to_num(gap, nan=math.inf))
    scale = max(torch.nan_to_num(b.abs(), nan=0.0, posinf=0.0).max().item(), 1e-12)
    if gap.max().item() <= TOLERANCE.get(expected.dtype, 0) * scale:
        return None
    where = (gap == gap.max()).nonzero()[0].tolist()
    at = f" at {where}" if where else ""
    return (
        f"the largest difference is {gap.max().item():.3g}{at}: "
        f"{a[tuple(where)].item():.4g}, expected {b[tuple(where)].item():.4g}"
    )
