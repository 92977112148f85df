# %% [markdown]
# # 00 Start here
#
# **20 minutes** of reading and doing, **10 seconds** of computing on two cores. Before this: nothing; a little Python.
#
# After this page you will know how a lesson works, you will have met the two models this course adapts, and you will have
# written your first function and had it checked.

# %% [markdown]
# ## How a lesson works
#
# You *predict*, then you *build* the thing in a few lines, then you *run* it on a real model and read the result.
# Run a cell with Shift+Enter. Nothing you do here can break the course: this is your own copy, and it is never overwritten.
# A cell that only draws is folded: click on the three dots, or on the bar to its left, to see its code.
#
# `pl` is the helper package of this course. A **model** is a network with **parameters**, numbers that were learnt from data.
# Somebody has already trained the models you will use, with much text and for no task in particular: that was their
# **pre-training**. The whole course is about changing what such a **base model** does without training all of it again.
#
# A term stands in bold where it is explained; the glossary, linked above, has all of them.

# %%
import torch

import peftlab as pl
from peftlab.classroom import check, predict

# %% [markdown]
# ## Predict
#
# Every lesson asks before it shows. Choose an answer first; a wrong one costs nothing and is worth more than a right one
# read afterwards.

# %%
predict("nearest-sentence")

# %% [markdown]
# ## Meet the first model
#
# `minilm-l6` is an **encoder**. It reads text in pieces, words or parts of words, called **tokens**, and gives a vector for each.
# The mean of these is the **embedding** of the sentence: one vector, and sentences that mean the same get embeddings that
# point the same way.

# %%
encoder, encoder_tokenizer = pl.lab.load_base("minilm-l6")


@torch.no_grad()
def embed(sentences):
    """The embedding of each sentence: (sentences, 384)."""
    batch = encoder_tokenizer(sentences, padding=True, return_tensors="pt")
    hidden = encoder(**batch).last_hidden_state  # (sentences, tokens, 384)
    real = batch["attention_mask"][..., None]  # 1 for a token, 0 for padding
    return (hidden * real).sum(1) / real.sum(1)


question = embed(["The bank has raised its interest rates."])
sentences = [
    "The river bank was covered in flowers.",
    "Borrowing money has become more expensive.",
    "She raised an interesting question.",
    "The bank has a green roof.",
]
answers = embed(sentences)
question.shape, answers.shape

# %% [markdown]
# ## Build it
#
# {{cosine}}
#
# Which of the four embeddings points most nearly the way the question does? The **cosine similarity** of two vectors $a$ and
# $b$ is
#
# $$\cos(a, b) = \frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}$$
#
# where $a \cdot b$ is their dot product and $\lVert a \rVert$ the **norm** of $a$, its length: the root of the sum of its
# squares. Dividing a vector by its norm is to **normalise** it. The cosine is 1 when the two point the same way, 0 at a right
# angle, -1 in opposite directions. Write it for all pairs at once: `a` is (n, d), `b` is (m, d), the result is (n, m).
#
# Replace the line that raises an error, run the cell, then run the check below it. The check says what it saw; it never
# shows the answer. The hints under it come in steps, and the solution lies folded at the end of them.


# %%
def cosine(a, b):
    ### BEGIN SOLUTION
    a = a / a.norm(dim=1, keepdim=True)
    b = b / b.norm(dim=1, keepdim=True)
    return a @ b.T
    ### END SOLUTION


# %%
check("cosine", cosine)

# %% [markdown]
# ## Run it
#
# Now your function answers the question you predicted. Whichever you chose: here is what the model says.

# %%
similar = cosine(question, answers)[0]
for sentence, value in zip(sentences, similar.tolist(), strict=True):
    print(f"{value:.2f}  {sentence}")
order = similar.argsort(descending=True).tolist()
assert order == [1, 3, 0, 2], "expected: borrowing, the roof, the river, the question"

# %% [markdown]
# The nearest sentence shares no noun with the question. The sentence about the bank's roof comes second, and the river bank
# third: the model has both the word and its meaning, and the meaning weighs more. Searching by meaning is nothing but this.

# %% [markdown]
# ## See
#
# A small help desk: three questions, five lines of a handbook.

# %%
questions = [
    "How do I get my money back?",
    "My parcel never came.",
    "Can I pay in instalments?",
]
handbook = [
    "Refunds are made within fourteen days.",
    "Lost deliveries are replaced free of charge.",
    "You may spread the cost over six months.",
    "Our shops are closed on Sundays.",
    "The money on the back of the card is not yours.",
]
similar = cosine(embed(questions), embed(handbook))
for q, row in zip(questions, similar, strict=True):
    print(f"{q:28} {handbook[row.argmax()]}")

# %% tags=["hide-source"]
pl.lab.figures.show(
    pl.lab.figures.table(
        similar.numpy(),
        questions,
        [" ".join(line.split()[:3]) + " ..." for line in handbook],
        "Which line answers?",
        "cosine similarity",
    ),
    alt="A table of cosines, three questions by five lines of the handbook. The parcel and the instalments are nearest to "
    "the right lines; the question about money back is slightly nearer to a line that only repeats its words.",
)

# %% [markdown]
# Two of the three are right, one of them only just. That is better than guessing, which would find one line in five; three questions prove no
# more than that. *How do I get my money back?* is nearest to a line that repeats its words, *the money on the
# back of the card*, and the right line comes second. Nobody has taught this model anything about help desks. Teaching it,
# without training all of its weights and without losing what it knows, is what this course is about.

# %% [markdown]
# ## Meet the second model
#
# `smollm2-135m` is a **decoder**: it continues text, one token after the other, and was tuned to answer.

# %% tags=["heavy"]
decoder, decoder_tokenizer = pl.lab.load_base("smollm2-135m")


def ask(text, tokens=24):
    chat = [{"role": "user", "content": text}]
    how = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    batch = decoder_tokenizer.apply_chat_template(chat, **how)
    written = decoder.generate(**batch, max_new_tokens=tokens, do_sample=False)
    answer = written[0, batch["input_ids"].shape[1] :]  # without the question
    return decoder_tokenizer.decode(answer, skip_special_tokens=True)


answer = ask("What is the capital of France?")
print(answer)
assert "Paris" in answer, "the model is expected to know this: read what it wrote instead"

# %% [markdown]
# It knows a fact. Does it do as it is told?

# %% tags=["heavy", "nbval-ignore-output"]
print(ask("Say hello in Italian. Answer with one word."))

# %% [markdown]
# *Ciao* would have done. In the output stored with this page the model invents a word instead, and a meaning for it. Ask it
# something of your own if you like: change the text in the cell above.
#
# Both models are small so that everything here runs on your machine, without a graphics card. How many parameters have they?

# %% tags=["heavy"]
print("minilm-l6:   ", f"{pl.count(encoder).total:>11,} parameters")
print("smollm2-135m:", f"{pl.count(decoder).total:>11,} parameters")

# %% [markdown]
# ## What this machine can do
#
# Lessons are made for two processor cores and are quicker with more. Where a graphics card is present, the cells that can
# use it do.

# %% tags=["nbval-ignore-output"]
print("threads that compute:", torch.get_num_threads())
print("a GPU is present" if torch.cuda.is_available() else "no GPU, and none is needed")
assert torch.get_num_threads() >= 1, "none: run `peftlab doctor` in a terminal"

# %% [markdown]
# ## Where you stand
#
# Every check you run in your own copies is noted in `work/progress.sqlite`, on this machine and nowhere else. Open a lesson's
# line to see its exercises. `peftlab progress` shows the same in a terminal.

# %% tags=["nbval-ignore-output"]
from peftlab.classroom import board

board()

# %% [markdown]
# ## Go further
#
# - `peftlab doctor` in a terminal says what is installed, what is missing, and what to do about it.
# - The next lesson counts what it costs to train one of these models, before any training is done.
# - One thing to think about until then: the right line of the handbook came second for the refund. How many of the
#   parameters of `minilm-l6` would have to change to put it first?
#
# Sources: MiniLM, [arXiv:2002.10957](https://arxiv.org/abs/2002.10957); sentence embeddings,
# [arXiv:1908.10084](https://arxiv.org/abs/1908.10084); SmolLM2, [arXiv:2502.02737](https://arxiv.org/abs/2502.02737).

# %% [markdown] tags=["written"]
# ## In your own words
#
# Two results of this page pull apart: what was nearest to the sentence about the bank, and what was nearest to the question
# about money back. What did you see in each? From the second somebody concludes: *the model only compares words.* What would you
# have to see, on which questions, to agree?
