"""Where virtual tokens and text stand in what a model reads, row by row.

A batch is a rectangle, and its rows may have virtual tokens of different lengths, or none. The front is padded to the
longest, and everything that is only padding is masked. A model that reads from left to right finds the virtual tokens
directly before its text, behind all padding; one that sees all tokens at once finds them first, and what only fills up
the front last: it may look for its answer in the first place.
"""
import torch


def lengths(rows, kind):
    """How many virtual tokens of a kind each row has."""
    return [len(t) if t is not None and getattr(t, kind) is not None else 0 for t in rows]


def stack(rows, kind):
    """The rows' vectors of one kind, zeros in front up to the longest: (batch, n, ...). None if no row has any."""
    makers = {id(t): t for t, n in zip(rows, lengths(rows, kind)) if n}
    if not makers:
        return None
    made = {i: getattr(t, kind)() for i, t in makers.items()}                         # (n_i, ...) each
    if len({id(t) for t in rows}) == 1:
        (vectors,) = made.values()
        return vectors.expand(len(rows), *vectors.shape)
    n, some = max(map(len, made.values())), next(iter(made.values()))
    blank = some.new_zeros(n, *some.shape[1:])
    padded = {i: torch.cat([blank[len(v):], v]) for i, v in made.items()}
    return torch.stack([padded.get(id(t), blank) for t in rows])


class Places:
    """The places of one forward pass over `time` tokens of text, after `cached` entries that a cache holds already.

    rows: the virtual tokens, or None, of each row. mask: the text's own, (batch, all its tokens so far), or None.
    last: whether the model answers from the last place, so that padding behind the text has to go before it.
    """

    def __init__(self, rows, time, mask, cached, device, causal, last=False, kinds=("key_values", "embeddings")):
        self.rows, self.time, self.first, self.causal = rows, time, cached == 0, causal
        prefix, prompt = (lengths(rows, k) if k in kinds else [0] * len(rows) for k in ("key_values", "embeddings"))
        self.n = max(prompt)                                 # places that the text is moved by, prompts of all rows
        self.mixed = len(set(prefix)) > 1 or len(set(prompt)) > 1
        self.as_tuple = False                                # whether the caller wants the output without names
        self.told = mask is not None                         # whether there may be padding
        self.cached_text = max(0, cached - max(prefix) - self.n)
        ones = torch.ones(len(rows), self.cached_text + time, dtype=torch.long, device=device)
        self.text = ones if mask is None else mask.long()
        self.prefix, self.prompt = (ones.new_tensor(k)[:, None] for k in (prefix, prompt))      # (batch, 1)
        front = (torch.arange(self.n, device=device) >= self.n - self.prompt).long()  # (batch, n): 1 where a token is
        self.order = self._order(front, last)
        cached_prefix = (torch.arange(max(prefix), device=device) >= max(prefix) - self.prefix).long()
        self.mask = torch.cat([cached_prefix, self.in_order(front, self._read_first()), self._read_later()], 1)

    def _read_first(self):
        """The mask of the text that stood beside the virtual tokens when they were read."""
        return self.text[:, :self.time if self.first else self.cached_text]

    def _read_later(self):
        return self.text[:, self.time if self.first else self.cached_text:]

    def _order(self, front, last):
        """The places of [front, text] in their new order, (batch, n + time), or None: they stand right as they are."""
        if not self.n or not (self.mixed or self.told):
            return None
        text = self._read_first()
        if self.causal:                                      # padding, then the front, then the text
            padding = text == 0 if last else text.cumsum(1) == 0
            rank = torch.cat([3 * front, torch.where(padding, 2, 4)], 1)
        else:                                                # the front, then the text, then what only fills up the front
            rank = torch.cat([torch.where(front == 1, 1, 3), torch.full_like(text, 2)], 1)
        return rank.argsort(dim=1, stable=True)

    def in_order(self, front, text):
        """[front, text] along the second dimension, (batch, n + time, ...), each row in its order."""
        whole = torch.cat([front, text], 1)
        if self.order is None:
            return whole
        return whole.take_along_dim(self.order.view(*self.order.shape, *[1] * (whole.dim() - 2)), 1)

    def of_text(self):
        """Where the tokens of the text stand now, (batch, time)."""
        if self.order is None:
            return torch.arange(self.n, self.n + self.time, device=self.text.device).expand(len(self.rows), -1)
        return self.order.argsort(1)[:, self.n:]

    def positions(self, own, start):
        """position_ids for what is read now; None where the model counts right by itself.

        own: the text's, given by the caller, (batch or 1, time), or None. start: what the model calls the first position.
        """
        if own is None and not (self.mixed or self.told if self.causal else self.mixed and self.prefix.max() > 0):
            return None
        ours = self.prefix + self.prompt                                              # (batch, 1)
        if own is None:
            own = torch.arange(self.cached_text, self.cached_text + self.time, device=ours.device) + start
            counted = (self.text.cumsum(1) - 1).clamp(min=0)[:, -self.time:] + start
            own = torch.where((ours > 0) & torch.tensor(self.causal, device=ours.device), counted, own)
        own = own.expand(len(self.rows), -1)
        if not self.first or not self.n:
            return own + ours
        real = self.text.argmax(1, keepdim=True)                                      # (batch, 1): the first real token
        front = own.gather(1, real) + self.prefix + (torch.arange(self.n, device=own.device) - self.n + self.prompt)
        return self.in_order(front.clamp(min=0), own + ours)
