"""The article's claims, C1 to C37, each with its verdict and the runs behind it: `table()`, and `python -m peftlab.lab.claims` for the page.

What stands here is the claim, where it is settled and the sentence to be filled in; verdict and numbers come from
`claims_measured`, and so from the records. A test compares them with the tables that the lessons have of their own.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from peftlab.lab import records
from peftlab.lab.claims_measured import HELD, IN_PART, NOT, OPEN, SETTLE, See

NOTHING = "The runs that decide it are not recorded yet."
VERDICTS = (HELD, IN_PART, NOT, OPEN)
ROOT = Path(__file__).parents[2]
PAGE, README = ROOT / "docs" / "claims.md", ROOT / "README.md"


@dataclass(frozen=True)
class Claim:
    """One claim. depends: what it depends on, with fields for the numbers; without: how it is settled where it needs no run.

    said: words of each lesson's own table on it; amounts: the verdict that these words amount to; would: what would decide it.
    """

    number: int
    sentence: str
    lessons: tuple
    depends: str
    without: str = ""
    said: dict = field(default_factory=dict)
    amounts: str = ""
    would: str = ""


CLAIMS = (
    Claim(
        1, "Freeze most of the weights, train a small subset, and the result is comparable", ("10",),
        "Each at its own learning rate and measured against full fine-tuning, "
        "the best small method is {told}, over {seeds} seeds. On par, that is surely no more than {margin:.0f} points behind: {par}. Still on par "
        "after Holm's correction for all small methods, over both domains: {surely}. These are near tasks; with another "
        "model, in far languages, LoRA of rank thirty-two is {far:behind} full fine-tuning (C{other}). The verdict needs "
        "{wanted} seeds in a domain.",
        would="Six seeds in at least two domains decide it, if their intervals are narrower than the margin or the differences plain.",
    ),
    Claim(
        2, "140 to 280 times fewer trainable parameters", ("01",),
        "It is {low:.0f} and {high:.0f} with the counts rounded to millions; exactly, {fewest:.0f} to {most:.0f}. The"
        " rank decides, and the rank is a choice.",
    ),
    Claim(
        3, "LoRA trains 2 to 4 million of 560 million parameters", ("01",),
        "{small:.2f} million at rank eight and {large:.2f} million at rank thirty-two, of which the head is "
        "{head:.2f} million.",
    ),
    Claim(
        4, "Training takes 32 to 44 % less time", ("01",),
        "LoRA saves {low:.1%} to {high:.1%} of the multiplications. AdamW's update is saved as well, and weighs "
        "more in a small batch: in the lesson's own step on a small encoder it is most of what is saved. A "
        "step's time is not recorded on a GPU, so that the verdict is about the multiplications.",
    ),
    Claim(
        5, "Memory falls in proportion to the trainable parameters", ("01",),
        "{parameters:.0f} times fewer parameters, but weights, gradients and AdamW's states together are only "
        "{less:.1f} times smaller, and activations come on top of both.",
    ),
    Claim(
        6, "The base's knowledge stays intact, since its weights do not change", ("03", "09",),
        "True of the weights: with the adapter off, nothing had changed in {runs} runs. Not of what the model "
        "does with the adapter on: there LoRA of rank eight learnt {learnt:.1%} of Italian and lost {lost:.1%} "
        "of what the base knew of three languages.",
        said={"03": "true of the weights, to the last bit"}, amounts=IN_PART,
    ),
    Claim(
        7, "The product of two narrow matrices approximates the same information", ("02", "03",),
        "It depends on the task. After {steps} steps LoRA of rank eight had learnt {italian:.1%} of "
        "Italian, where full fine-tuning had learnt {italian_full:.1%}; of film sentences {films:.1%}, and full "
        "{films_full:.1%}; of Turkish {turkish:.1%}, and full {turkish_full:.1%}. What a full update needs to "
        "keep {share:.0%} of its squared norm is {italian_ranks:.1f} ranks in Italian and {turkish_ranks:.1f} in "
        "Turkish, of at most {wide}: so a product of rank eight need not approximate it to learn a task. The "
        "learning rates are lesson two's, not chosen on a validation set.",
        said={"02": "true as far as the update is near a low rank", "03": "in two of the three tasks"}, amounts=IN_PART,
    ),
    Claim(
        8, "Only A and B are trained, and the start is the base model", ("03",),
        "By construction: B starts at zero, so the first output is the base's, and the frozen weights have no "
        "gradient.",
        without="proved", said={"03": "holds exactly, by construction"}, amounts=HELD,
    ),
    Claim(
        9, "It can be merged back into the weights, and then costs nothing", ("03", "11",),
        "Up to rounding, into the weights it was trained beside. An adapter on a base of four bits, {asked} "
        "questions for each seed, share of answers in the format: {on:.1%} with the adapter on, {into:.1%} "
        "merged into the dequantised weights, {original:.1%} merged into the original ones, {again:.1%} "
        "quantised again. There the error of quantisation was {ratio:.1f} times as large as the update. In "
        "Italian, where it was {italian_ratio:.2f} times, a merge cost little: {italian_on:.1%} on, "
        "{italian_original:.1%} in the original weights, {italian_again:.1%} quantised again.",
        said={"03": "holds up to rounding", "11": "only into the weights that the adapter was trained beside"},
        amounts=IN_PART,
    ),
    Claim(
        10, "Versions can be swapped without full copies", ("03", "12", "13",),
        "A hundred versions of the large encoder are {files:.1f} GB as LoRA of rank eight with its head, beside one "
        "base, and {copies:.0f} GB as full copies.",
        said={"03": "holds: one base", "12": "holds: one base", "13": "holds if the file holds all"}, amounts=HELD,
    ),
    Claim(
        11, "LoRA suits many models on one base", ("12",),
        "A batch that mixes adapters is answered row by row exactly as if each were alone; switched, two "
        "languages are at {switch:.1%}. Made one weight instead, the best way left {merged:.1%}. Where the tasks "
        "are alike there is little in it: three domains of sentiment are at {three_switch:.1%} switched and at "
        "{three_merged:.1%} as one weight. What a server makes of it in time was not measured, nor more than "
        "three adapters.",
        said={"12": "holds exactly, row by row"}, amounts=HELD,
    ),
    Claim(
        12, "Adapters are a projection down and up inside each block", ("05",),
        "By definition; the lesson builds it in three places.",
        without="defined", said={"05": "so by definition"}, amounts=HELD,
    ),
    Claim(
        13, "Adapters train 7 to 26 million parameters on a model of 560 million, depending on the task", ("01", "05",),
        "The counts come out, {narrow:.2f} and {wide:.2f} million with the head, as two widths, an eighth and a half "
        "of the model's. It is the width that was chosen, not the task.",
        said={"05": "it depends on the setting"}, amounts=IN_PART,
    ),
    Claim(
        14, "Adapters train more parameters than LoRA", ("01", "05",),
        "A habit. On the large encoder the adapter of a width of an eighth trains {adapter:.1f} million beside "
        "{lora:.1f} million of LoRA of rank {rank}; with a reduction factor of {factor} it trains {thin:.1f} million.",
        said={"05": "not by nature"}, amounts=IN_PART,
    ),
    Claim(
        15, "Adapters can capture more complex behaviour", ("05",),
        "More than any matrix with a bias, on a task made for it. Of Italian, the non-linearity changed what was "
        "learnt by {told}, over {seeds} seeds: a difference smaller than these intervals could not be seen.",
        said={"05": "shown on a synthetic task"}, amounts=IN_PART,
    ),
    Claim(
        16, "A prompt stands at the input alone, a prefix in every layer", ("06",),
        "By definition; the lesson builds both.",
        without="defined", said={"06": "so by definition"}, amounts=HELD,
    ),
    Claim(
        17, "Vectors in front of the text are about 0.1 % of the parameters", ("01", "06",),
        "Of the prefix, and of its length: with {tokens} virtual tokens it has {prefix:.3%} in a model of {size:.0f} "
        "million and {other_prefix:.3%} in one of {other_size:,.0f} million; a prompt as long has {prompt:.4%} and "
        "{other_prompt:.4%}.",
        said={"06": "of the large model, a prefix of eleven virtual tokens"}, amounts=IN_PART,
    ),
    Claim(
        18, "Prompts and prefixes only add a bias to the output", ("06",),
        "True of one head, given its inputs, if a bias may depend on the query; and what the words contribute is "
        "scaled down, as the prefix takes a share of the attention.",
        without="proved", said={"06": "true of one head, given its inputs"}, amounts=IN_PART,
    ),
    Claim(
        19, "A prefix cannot change attention patterns", ("06",),
        "True of the first layer, to rounding. From the second on the inputs have changed, and the pattern with them.",
        without="proved", said={"06": "false from the second on"}, amounts=IN_PART,
    ),
    Claim(
        20, "So prompts and prefixes struggle on tasks that need new attention", ("06",),
        "It failed with one block, and with two it depended on steps and luck. With one block no prompt and no "
        "prefix reversed a list (at best {one:.1%} of them, prompts after {steps} steps, a prefix of forty after "
        "as many as {patient:,}); but neither did LoRA of rank one ({lora_1:.1%} at best). With two, the prefix "
        "of forty did in {did} of {seeds} seeds after {patient:,} steps: {each}. LoRA of rank eight did after "
        "{steps} with one block and with two: its worst seed has {lora:.1%}.",
        said={"06": "with one block they never did it"}, amounts=IN_PART,
    ),
    Claim(
        21, "On near tasks prompt methods are surprisingly good", ("06",),
        "What the model knew they call up: Spanish {prompt:.1%} by a prompt and {prefix:.1%} by a prefix; what "
        "it writes untouched, lesson six counts. Portuguese, the nearest new language, they learn in part at best, in {steps} "
        "steps: {new_prompt:.1%} by a prompt of ten tokens, {long_prompt:.1%} by one of forty, {new_prefix:.1%} "
        "by a prefix.",
        said={"06": "what the model knew: yes"}, amounts=IN_PART,
    ),
    Claim(
        22, "Full fine-tuning forgets catastrophically", ("09",),
        "At the rate of lowest loss in training, {best_rate:g}, it learnt {best_learnt:.1%} of Italian and lost "
        "{best_lost:.1%} of the three languages it knew. At the rate that loses least of those that learnt more than "
        "half, {mild_rate:g}, it learnt {mild_learnt:.1%} and lost {mild_lost:.1%} of the three together: "
        "{mild_kept:.1%} of English it still wrote, {mild_es:.1%} of Spanish and {mild_fr:.1%} of French. Learning "
        "{facts:.1%} of forty invented capitals, it lost {capitals_lost:.1%} of the true ones and {facts_lost:.1%} of "
        "other facts. Where only a format was to be learnt it lost {form_lost:.1%} of the facts and put "
        "{form_learnt:.1%} of its answers into it, at its lowest rate {form_mild_lost:.1%} and "
        "{form_mild_learnt:.1%}. LoRA beside it is in C{other}.",
        said={"09": "at every rate that learnt most of Italian"}, amounts=IN_PART,
    ),
    Claim(
        23, "PEFT keeps the base's knowledge largely untouched", ("09",),
        "With the adapter off: exactly, in {runs} runs. With the adapter on: no. The methods that learnt more than half "
        "of Italian lost, of the three languages known before: {gone}; full fine-tuning {full_gone:.1%}. LoRA learnt "
        "{facts:.1%} of forty facts and lost {facts_lost:.1%} of others, full fine-tuning {full_facts:.1%} and "
        "{full_facts_lost:.1%}. Learning a format, LoRA lost {form_lost:.1%} of the facts, full fine-tuning "
        "{full_form_lost:.1%}; over the rates tried it runs from {form_from:.1%} to {form_to:.1%} and from "
        "{full_form_from:.1%} to {full_form_to:.1%}. Where Spanish had only to be called up, LoRA of rank eight lost "
        "{called:.1%} of the other two languages, at its lowest rate {called_mild:.1%}; full fine-tuning "
        "{full_called:.1%}, at its lowest {full_mild:.1%}; the row of the tag, which no other question uses, "
        "{tag:.1%}; {most} most, {most_lost:.1%}.",
        said={"09": "adapter off: exactly"}, amounts=IN_PART,
    ),
    Claim(
        24, "A frozen base with adapters circumvents forgetting fully", ("09",),
        "If somebody says which task it is: off, nothing had changed in {runs} runs. Where the adapter has to be "
        "guessed, a router on three domains chose the right one for {right:.1%} of the sentences; what that cost "
        "there, {gap:points}, cannot be told from nothing. In the lesson's own run on languages it cost more.",
        said={"09": "true in task-incremental learning"}, amounts=IN_PART,
    ),
    Claim(
        25, "PEFT beats the base and comes close to full fine-tuning", ("10",),
        "Surely better than the head alone, by a sign-flip test that takes pairs of seed and domain as "
        "independent, after Holm's correction: {number} of {methods} methods ({ahead}), over {seeds} seeds. Against full fine-tuning the best are {told}; on par, surely no more than {margin:.0f} points behind: {par}. The "
        "verdict needs {wanted} seeds.",
        would="Six seeds in at least two domains decide it, if their intervals are narrower than the margin or the differences plain.",
    ),
    Claim(
        26, "The biases alone (BitFit) are about 0.1 % of the parameters", ("01", "07",),
        "It depends on the model, and about means within a factor of two here: the biases of its blocks are "
        "{share:.3%} of the large encoder without its head, all biases {other:.3%} of a decoder of the same "
        "size, those of a small encoder's blocks {small:.3%}, and a Llama has none to train.",
        said={"07": "there is nothing to train"}, amounts=IN_PART,
    ),
    Claim(
        27, "BitFit is on par with full fine-tuning, or better, on several benchmarks", ("07", "10",),
        "BitFit minus full fine-tuning: {told}. Surely on par or better, the whole interval above {margin:.0f} "
        "points behind: {par} of {all}. Whole interval below zero, uncorrected for so many looks: {behind}.",
        said={"07": "not settled"},
        would="More seeds, or more sentences in the test, would decide it: the intervals are wider than the margin.",
    ),
    Claim(
        28, "A few well chosen parameters carry the signal", ("02",),
        "For what the model knows, few random directions are enough, so that they need not even be well chosen: "
        "{known} of {whole:,} give {at:.1%} of Spanish, more than {share:.0%} of what all give. In Italian, "
        "which is new, so few give {unlearnt:.1%}; of those tried it takes {new:,}, and {fewer:,} come close "
        "({short:.1%}).",
    ),
    Claim(
        29, "PEFT falls short far from what was learnt in pre-training", ("06", "07",),
        "After {steps} steps, over {seeds} seeds, {count} of {pairs} pairs of a method and a far language are behind "
        "full fine-tuning, the interval wholly above zero but uncorrected for so many looks{undecided}; in {nothing} of "
        "them the method learnt nothing at all. The nearest is {nearest}; rank thirty-two, which trains {share:.0%} of "
        "all parameters here, is as far as {widest:behind} in {widest_in}. Over the "
        "{far_languages} far languages LoRA of rank one, eight and thirty-two are {far_1:points}, {far_8:points} and "
        "{far_32:points} behind, over {near_languages} related ones {near_1:points}, {near_8:points} and "
        "{near_32:points} behind. More steps may narrow it: in Turkish rank eight is {turkish:behind} after {steps} "
        "and in other runs, of {patient} seeds and fixed rates, {gap:behind} after {more}; rank one is {gap_1:behind} "
        "there and rank thirty-two {gap_32:behind}.",
        said={"07": "so here for one row, norms"}, amounts=HELD,
    ),
    Claim(
        30, "For domain, tone and format PEFT is enough", ("03", "09", "11", "12",),
        "For a format: {score:.1%} of {asked} answers were in it by LoRA on a base quantized to four bits, "
        "beside {before:.1%} on that base alone, over {seeds} seeds. In other runs, each method at its own rate, "
        "{form_lora:.1%} by LoRA, {form_ia3:.1%} by (IA)³, {form_prompt:.1%} by a prompt of ten tokens and "
        "{form_full:.1%} by full fine-tuning. In the format does not mean right: of the answers {right:.1%} named the capital "
        "by LoRA in these runs, {right_full:.1%} by full fine-tuning, {right_before:.1%} before. In three domains, at "
        "one rate for all, an adapter each gained {gain:points} over the base, of which {any:points} came with another "
        "domain's adapter as well, which is the control, and {own:points} with its own alone; whether training "
        "everything gains more is C{other}, for two of them. Tone was not tried.",
    ),
    Claim(
        31, "The library has more than 25 methods", ("13",),
        "The version that this course uses has {count}.",
        without="counted",
        said={"13": "true"}, amounts=HELD,
    ),
    Claim(
        32, "It takes little code", ("13",),
        "LoRA here is a file of {lora} lines, and the hooks that all methods share {hooks}; with the library it is a "
        "configuration and a call.",
        without="counted",
        said={"13": "true"}, amounts=HELD,
    ),
    Claim(
        33, "LoRA has the best balance, and is the default", ("10",),
        "LoRA of rank eight on query and value is {told}, over {seeds} seeds. Of those that train less "
        "({cheaper}), surely no more than {margin:.0f} points behind LoRA: {which} on {equalled}. The verdict "
        "needs {wanted} seeds.",
        would="Six seeds in at least two domains decide it, if their intervals are narrower than the margin or the differences plain.",
    ),
    Claim(
        34, "Prompt tuning, if it has to be lighter and the task is near", ("06", "09",),
        "Near: a prompt of {trainable:,} parameters calls Spanish up at {prompt:.1%}, {gap:points} behind full "
        "fine-tuning. What it costs: while it is on, {lost:.1%} of what was right in the two other languages are gone, with "
        "LoRA of rank eight {lora_lost:.1%}, of rank one {narrow_lost:.1%}. Lighter still, as good there and of less harm: {better}. "
        "Near and new is another matter: of four related languages a prompt, of up to {longest:,} parameters, learnt at "
        "best {new:.1%} ({new_in}).",
    ),
    Claim(
        35, "Adapters are a middle ground, with more capacity than LoRA", ("05", "10",),
        "At equal size LoRA on all linear layers was ahead in Italian by {told}, over {seeds} seeds. That does "
        "not decide it: LoRA sat on more layers, and in {steps} steps how fast a method learns counts as well as "
        "how much it can. An adapter with {times:.0f} times as many parameters as the smallest LoRA is "
        "{wider:behind}. Against Pfeiffer's adapter, on near tasks, LoRA on all linear layers is {films}.",
        said={"05": "not found here"}, amounts=OPEN,
        would="Adapters and LoRA in the same places, and steps until neither learns more, would decide it.",
    ),
    Claim(
        36, "Decide by hardware, by the distance of the task and by the number of versions", ("14",),
        "The adviser's choice, the method of fewest parameters that is surely no more than {margin:.0f} points "
        "behind the best: {known} for Spanish, which is known, {related} for Italian, {far} for Turkish. From "
        "{budgets}. The number of versions changes what has to be kept, not what learns best.",
        said={"14": "holds in part"}, amounts=IN_PART,
    ),
    Claim(
        37, "Full fine-tuning of 100 billion parameters is out of reach", ("01",),
        "For one machine: {bytes} bytes a parameter for weight, gradient and AdamW's two states make "
        "{terabytes:.1f} TB before the first text, which is {cards:.0f} cards of {card:.0f} GB.",
        without="counted",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Settled:
    """A claim with its verdict, what it depends on, and the runs it rests on: experiment -> {key: (seed, device)}."""

    claim: Claim
    verdict: str
    depends: str
    used: dict
    rates: dict
    dirty: dict

    @property
    def runs(self):
        """The runs in words: how many, which seeds, which device, what is odd about them; or where it is counted or proved."""
        told = []
        for name, lines in sorted(self.used.items()):
            seeds = sorted({seed for seed, _ in lines.values()})
            which = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
            number = f"{len(lines)} run{'s' * (len(lines) > 1)}"
            told.append(f"{name}: {number}, {which}, {', '.join(sorted({device for _, device in lines.values()}))}")
        if edges := [tried for tried in self.rates.values() if tried]:
            two = edges.count(2)
            told.append(
                f"{len(edges)} of {len(self.rates)} learning rates chosen are the lowest or the highest of those tried"
                + f", {two} of them where only two were tried" * bool(two)
            )
        if dirty := sum(self.dirty.values()):
            told.append(
                f"{dirty} run{'s were' if dirty > 1 else ' was'} recorded from a tree with changes that were not committed"
            )
        how = {"defined": "by definition", "proved": "proved", "counted": "counted"}.get(self.claim.without)
        return "; ".join(told) or (f"{how} in lesson {self.claim.lessons[0]}" if how else "nothing recorded yet")


def settle(claim, folder=records.RUNS):
    """The claim with its verdict and numbers, from the records in a folder. Raises FileNotFoundError or ValueError where runs are missing."""
    see = See(folder)
    verdict, values = SETTLE[claim.number](see)
    told = [NOTHING if values is None else claim.depends.format(**values), claim.would if verdict == OPEN else ""]
    return Settled(claim, verdict, " ".join(filter(None, told)), see.used, see.rates, see.dirty)


def table(lesson=None, folder=records.RUNS):
    """The claims as a pandas frame: claim, sentence, verdict, lesson, runs. lesson: "10" gives those that are settled there.

    Raises ValueError for a lesson that settles none.
    """
    import pandas

    chosen = [c for c in CLAIMS if lesson is None or lesson in c.lessons]
    if not chosen:
        there = sorted({name for c in CLAIMS for name in c.lessons})
        raise ValueError(f"no claim is settled in lesson {lesson!r}; there are {', '.join(there)}")
    rows = [(f"C{s.claim.number}", s.claim.sentence, s.verdict, ", ".join(s.claim.lessons), s.runs)
            for s in (settle(c, folder) for c in chosen)]  # fmt: skip
    return pandas.DataFrame(rows, columns=["claim", "sentence", "verdict", "lesson", "runs"])


INTRODUCTION = (
    "What articles say of parameter-efficient fine-tuning, claim by claim, and what the runs of this course say to it. Generated "
    "by `python -m peftlab.lab.claims` from `peftlab/lab/claims.py` and the records in `data/runs`; a test fails when this page, a "
    "lesson's own table and the records disagree. The models are small and the runs are from a processor: a verdict is about what "
    "was measured here, by a rule that stands with it in `peftlab/lab/claims_measured.py`. What stands after ± is half of the 95 % "
    "interval of a mean over seeds; each method is taken at the learning rate whose runs have the lowest loss in training, or are best on "
    "validation, unless it is said. Where such a rate is the lowest or the highest that was tried, a better one may lie outside."
)


def digest(settled):
    """The verdicts counted, in a sentence."""
    counts = Counter(s.verdict for s in settled)
    told = ", ".join(f"{counts[v]} {v}" for v in VERDICTS)
    return f"Of the {len(settled)} claims of a typical article on PEFT, {told}."


def page(settled):
    """docs/claims.md."""
    out = [
        "# The claims, settled",
        "",
        INTRODUCTION,
        "",
        digest(settled),
        "",
        "| | claim | verdict | lesson |",
        "| --- | --- | --- | --- |",
    ]
    out += [
        f"| [C{s.claim.number}](#c{s.claim.number}) | {s.claim.sentence} | {s.verdict} | {', '.join(s.claim.lessons)} |"
        for s in settled
    ]
    for s in settled:
        out += ["", f"## C{s.claim.number}", "", f"*{s.claim.sentence}.* **{s.verdict[0].upper()}{s.verdict[1:]}**, lesson{'s' * (len(s.claim.lessons) > 1)} {' and '.join(s.claim.lessons)}.", "",
                s.depends, "", f"Rests on: {s.runs}."]  # fmt: skip
    return "\n".join(out) + "\n"


BEGIN, END = "<!-- claims: written by python -m peftlab.lab.claims -->", "<!-- end of claims -->"


def with_digest(text, settled):
    """The README with its digest between the two marks. Raises ValueError if a mark is missing."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(
            f"README.md lacks the marks {BEGIN!r} and {END!r}: put them back around the digest of the claims"
        )
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{digest(settled)}\n{END}{rest.split(END)[1]}"


def main():
    settled = [settle(c) for c in CLAIMS]
    PAGE.write_text(page(settled), encoding="utf-8")
    README.write_text(with_digest(README.read_text("utf-8"), settled), encoding="utf-8")
    print(digest(settled))


if __name__ == "__main__":
    main()
