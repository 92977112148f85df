import hashlib
import os
import subprocess
import sys

import pytest
import torch

from peftlab.lab import DOMAINS, four_domains, load_base, retrieval, sentiment, texts

COUNTS = {"tweets": 4200, "movies": 10605, "products": 3708, "editorials": 5190}
RATERS = {"tweets": (20, 99), "movies": (15, 29), "products": (20, 20), "editorials": (20, 20)}

GOLDEN = {"tweets": "c743b058bb88", "movies": "bc875702b096", "products": "0717b548060f", "editorials": "59ef47b4112b"}


def fingerprint(data):
    return hashlib.sha256("\n".join(data["id"]).encode()).hexdigest()[:12]


@pytest.mark.parametrize("domain", COUNTS)
def test_all_of_a_domain(domain):
    data = four_domains(domain)
    assert len(data) == COUNTS[domain] == len(set(data["id"]))
    lengths = [len(ratings) for ratings in data["ratings"]]
    assert (min(lengths), max(lengths)) == RATERS[domain]
    for ratings, rating in zip(data["ratings"], data["rating"], strict=True):
        assert all(-4 <= r <= 4 and r == int(r) for r in ratings)
        assert rating == pytest.approx(sum(ratings) / len(ratings))
    assert all(text and text == text.strip() and "&amp;" not in text for text in data["text"])
    assert all(data["document"]) if domain in ("products", "editorials") else not any(data["document"])


def test_texts_belong_to_their_ratings():
    """Of the products, 20 lines of the two files are in another order: they must be joined by id."""
    rows = {row["id"]: row for row in four_domains("products")}
    with_means = texts._table(
        texts.tarfile.open(texts.fetch("four-domains") / "hutto_ICWSM_2014.tar.gz"),
        "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt",
    )
    for id, mean, text in with_means:
        assert rows[id]["rating"] == pytest.approx(float(mean), abs=1e-6)
        assert rows[id]["text"] == texts.html.unescape(texts.html.unescape(text)).strip()


@pytest.mark.parametrize("domain", COUNTS)
def test_splits_are_all_of_it_once(domain):
    parts = {split: four_domains(domain, split) for split in texts.SPLITS}
    ids = [id for part in parts.values() for id in part["id"]]
    assert len(ids) == len(set(ids)) == COUNTS[domain]
    for split, (low, high) in texts.SPLITS.items():
        assert len(parts[split]) / COUNTS[domain] == pytest.approx(high - low, abs=0.01)


@pytest.mark.parametrize(
    "column, domains", {"document": ("products", "editorials"), "text": ("tweets", "movies")}.items()
)
def test_nothing_of_a_document_leaks_into_another_split(column, domains):
    for domain in domains:
        seen = [set(four_domains(domain, split)[column]) for split in texts.SPLITS]
        assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_splits_are_the_same_everywhere():
    """These fingerprints hold on every machine and in every version, or readers see other numbers than ours."""
    found = {domain: fingerprint(four_domains(domain, "train")) for domain in COUNTS}
    assert found == GOLDEN
    code = "from peftlab.lab import four_domains; print(*four_domains('movies', 'train')['id'], sep='\\n', end='')"
    env = {**os.environ, "PYTHONHASHSEED": "17"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
    assert hashlib.sha256(said).hexdigest()[:12] == GOLDEN["movies"]


def test_another_seed_is_another_split():
    a, b = (set(four_domains("tweets", "test", seed=seed)["id"]) for seed in (0, 1))
    assert a != b and len(a & b) < 0.4 * len(a)


def test_sentiment():
    data = sentiment("movies", "test")
    everything = four_domains("movies", "test")
    assert set(data["label"]) == {0, 1}
    assert all(
        abs(rating) > 0.5 and label == (rating > 0) for rating, label in zip(data["rating"], data["label"], strict=True)
    )
    assert len(data) == sum(abs(rating) > 0.5 for rating in everything["rating"])
    assert len(sentiment("movies", "test", margin=2)) < len(data)
    assert len(sentiment("movies")) == 4982 + 5061


def test_four_domains_can_be_read_twice_and_changed():
    """A caller who changes a row has changed his own copy."""
    row = four_domains("tweets")[0]
    row["ratings"].append(99)
    assert 99 not in four_domains("tweets")[0]["ratings"]


@pytest.mark.parametrize("call, saying", [
    (lambda: four_domains("films"), "'tweets', 'movies', 'products', 'editorials', not 'films'"),
    (lambda: four_domains("movies", "dev"), "'train', 'validation', 'test' or None, not 'dev'"),
])  # fmt: skip
def test_errors_name_what_there_is(call, saying):
    with pytest.raises(ValueError, match=saying):
        call()


def test_domains_are_those():
    assert list(DOMAINS) == list(COUNTS)


# ---- retrieval


def test_retrieval_of_the_untouched_model():
    assert retrieval(*load_base("minilm-l6")) == pytest.approx(0.609, abs=0.004)


def test_retrieval_counts_neighbours(monkeypatch):
    """Against a count by hand, with embeddings of our own: 1,035 sentences, the first 100 articles in published order."""
    torch.manual_seed(0)
    seen = []

    def embed(model, tokenizer, sentences):
        seen.extend(sentences)
        return torch.nn.functional.normalize(torch.randn(len(sentences), 8), dim=1)

    monkeypatch.setattr("peftlab.lab.heads.embed", embed)
    found = retrieval(None, None)
    rows = [row for row in four_domains("editorials") if int(row["document"]) <= 100]
    assert seen == [row["text"] for row in rows] and len(rows) == 1035
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(len(rows), 8), dim=1)
    hits = 0
    for i, vector in enumerate(vectors):
        similarity = torch.cat([vectors[:i], vector.new_full((1, 8), -1e9), vectors[i + 1 :]]) @ vector
        others = [j for j in range(len(rows)) if j != i]
        best = max(others, key=lambda j: similarity[j].item())
        hits += rows[best]["document"] == rows[i]["document"]
    assert found == pytest.approx(hits / len(rows), abs=2 / len(rows))
