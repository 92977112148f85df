"""Real sentences from four domains, each with the sentiment that many people saw in it (Hutto and Gilbert, ICWSM 2014)."""

import hashlib
import html
import io
import json
import tarfile
from functools import cache

from .sources import SourceError, fetch

DOMAINS = {
    "tweets": "tweets",
    "movies": "movieReviewSnippets",
    "products": "amazonReviewSnippets",
    "editorials": "nytEditorialSnippets",
}
SPLITS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}  # shares of the texts


def four_domains(domain: str, split: str | None = None, seed: int = 0):
    """The sentences of one domain: "tweets" (4,200), "movies" (10,605), "products" (3,708) or "editorials" (5,190).

    Args:
        domain: one of the four.
        split: "train" (70 %), "validation" (10 %), "test" (20 %), or None for all of them in published order.
        seed: another seed, another split. A split depends on the seed and the texts alone, not on machine or version.

    Returns:
        A `datasets.Dataset` with the columns `id`; `document`, the review or article that a product or editorial
        sentence comes from (else None); `text`; `ratings`, what each rater said, -4..4, 15 to 99 of them; and `rating`,
        their mean. (For 199 tweets the published mean is not that of the published ratings; we take the ratings'.)

    All sentences of a document fall into the same split, and so do repeated movie snippets and tweets.
    """
    from datasets import Dataset

    return Dataset.from_list(_choose(domain, split, seed))


def sentiment(domain: str, split: str | None = None, seed: int = 0, margin: float = 0.5):
    """`four_domains` as a question with two answers: `label` is 1 where rating > margin and 0 where rating < -margin.

    Sentences between the two, which people did not agree to call either, are left out.
    """
    from datasets import Dataset

    rows = [row for row in _choose(domain, split, seed) if abs(row["rating"]) > margin]
    return Dataset.from_list([{**row, "label": int(row["rating"] > 0)} for row in rows])


def retrieval(model, tokenizer, articles: int = 100) -> float:
    """Share of editorial sentences whose nearest neighbour (cosine) is from the same article: what the model can do untaught.

    The sentences are those of the first `articles` articles in published order, repeats within an article left in: 1,035
    sentences for 100 articles. The embeddings are `embed`'s. The texts carry no sentiment task, so a model fine-tuned on
    another domain shows here what it lost.
    """
    import torch

    from .heads import embed

    rows = _rows("editorials")
    wanted = set(list(dict.fromkeys(row["document"] for row in rows))[:articles])
    rows = [row for row in rows if row["document"] in wanted]
    vectors = embed(model, tokenizer, [row["text"] for row in rows])  # (sentences, width), unit length
    similar = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    nearest = similar.argmax(dim=1).tolist()
    return sum(rows[i]["document"] == rows[j]["document"] for i, j in enumerate(nearest)) / len(rows)


def _choose(domain: str, split: str | None, seed: int) -> list[dict]:
    if split is None:
        return _rows(domain)
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(map(repr, SPLITS))} or None, not {split!r}")
    return _split(_rows(domain), f"{seed}/{domain}")[split]


@cache
def _rows(domain: str) -> list[dict]:
    if domain not in DOMAINS:
        raise ValueError(f"domain is one of {', '.join(map(repr, DOMAINS))}, not {domain!r}")
    path = fetch("four-domains") / "hutto_ICWSM_2014.tar.gz"
    with tarfile.open(path) as archive:
        texts = _table(archive, f"hutto_ICWSM_2014/{DOMAINS[domain]}_GroundTruth.txt")
        ratings = _table(archive, f"hutto_ICWSM_2014/{DOMAINS[domain]}_anonDataRatings.txt")
    by_id = {row[0]: json.loads(row[3]) for row in ratings}  # the two files are not always in the same order
    if by_id.keys() != {row[0] for row in texts}:
        raise SourceError(f"{path}: texts and ratings of {domain} do not belong together")
    rows = []
    for id, _, text in texts:
        given = by_id[id]
        rows.append({
            "id": id,
            "document": id.split("_")[0] if "_" in id else None,
            "text": html.unescape(html.unescape(text)).strip(),  # some were escaped twice
            "ratings": given,
            "rating": sum(given) / len(given),
        })  # fmt: skip
    return rows


def _table(archive: tarfile.TarFile, member: str) -> list[list[str]]:
    lines = io.TextIOWrapper(archive.extractfile(member), encoding="utf-8-sig")
    return [line.rstrip("\r\n").split("\t") for line in lines]


def _split(rows: list[dict], salt: str) -> dict[str, list[dict]]:
    """Shuffle the documents by hash, then cut the list of sentences where the shares say, between two documents."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["document"] or row["text"], []).append(row)
    parts, seen = {name: [] for name in SPLITS}, 0
    order = sorted(groups.values(), key=lambda group: hashlib.sha256(f"{salt}/{_key(group[0])}".encode()).digest())
    for group in order:
        part = next(name for name, (low, high) in SPLITS.items() if low <= seen / len(rows) < high)
        parts[part] += group
        seen += len(group)
    return parts


def _key(row: dict) -> str:
    return row["document"] or row["id"]  # what the publisher numbered: cleaning a text moves nothing
