import pytest
import torch
from torch.nn import functional as F

from peftlab.lab import MeanPoolClassifier, embed, load_base
from peftlab.lab.heads import mean_pool

TEXTS = [
    "A good film.",
    "By far the most tedious two hours that this reviewer has ever sat through.",
    "Hm",
    "A good film.",
]


@pytest.fixture(scope="module")
def minilm():
    return load_base("minilm-l6")


def test_mean_is_over_real_tokens():
    hidden = torch.arange(12.0).view(1, 4, 3)
    assert torch.equal(mean_pool(hidden, torch.tensor([[1, 1, 0, 0]])), hidden[:, :2].mean(1))
    assert torch.equal(mean_pool(hidden, torch.zeros(1, 4, dtype=torch.long)), torch.zeros(1, 3))


def test_embeddings_are_unit_vectors_in_order_and_do_not_depend_on_the_batch(minilm):
    together = embed(*minilm, TEXTS)
    assert together.shape == (4, 384)
    assert torch.allclose(together.norm(dim=1), torch.ones(4))
    alone = torch.cat([embed(*minilm, [text]) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, embed(*minilm, TEXTS, batch_size=3), atol=1e-5)
    assert torch.allclose(together[0], together[3], atol=1e-5) and together[0] @ together[1] < 0.9


def test_embed_leaves_the_mode_as_it_was(minilm):
    model, tokenizer = minilm
    model.train()
    trained = embed(model, tokenizer, TEXTS)
    assert model.training
    model.eval()
    assert torch.equal(trained, embed(model, tokenizer, TEXTS))  # no dropout in an embedding
    assert not model.training


def test_classifier(minilm):
    torch.manual_seed(0)
    model, tokenizer = minilm
    classifier = MeanPoolClassifier(model, num_labels=3).eval()
    batch, labels = tokenizer(TEXTS, padding=True, return_tensors="pt"), torch.tensor([2, 0, 1, 2])
    output = classifier(**batch, labels=labels)
    assert output.logits.shape == (4, 3)
    assert torch.allclose(output.loss, F.cross_entropy(output.logits, labels))
    assert classifier(**batch).loss is None
    vectors = embed(classifier, tokenizer, TEXTS)
    pooled = mean_pool(model(**batch).last_hidden_state, batch["attention_mask"])
    assert torch.allclose(vectors, F.normalize(pooled, dim=1), atol=1e-5)
    assert torch.allclose(output.logits, classifier.classifier(pooled), atol=1e-5)
    output.loss.backward()
    assert all(p.grad is not None for p in classifier.classifier.parameters())
    model.zero_grad()
