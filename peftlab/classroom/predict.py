"""`predict("lora-first-step")`: a question to answer before running anything, with a reason for every choice."""

from .checking import check
from .exercise import find


class Prediction:
    """The answers as buttons; the reason appears below as soon as one is chosen.

    Not radio buttons: JupyterLab takes the arrow keys for itself, and Tab reaches only one of a group.
    """

    def __init__(self, question):
        import ipywidgets as widgets

        self.question = question
        options = [(f"{k}) {text}", k) for k, (text, _) in question.options.items()]
        self.choice = widgets.ToggleButtons(options=options, value=None, style={"button_width": "auto"})
        self.told = widgets.HTML("<i>Choose with the mouse, or with Tab and the space bar.</i>")
        self.choice.observe(self.answer, "value")
        self.box = widgets.VBox([self.choice, self.told])

    def answer(self, change):
        result = check(self.question.id, change["new"])
        self.told.value = result._repr_html_()

    def __repr__(self):
        return f"A question with the answers {', '.join(self.question.options)}: choose one in the running notebook."

    def _repr_mimebundle_(self, **kwargs):
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": repr(self)}


def predict(question):
    """Show a question by its id. Without a kernel, the same stands in the Markdown above it."""
    return Prediction(find(question))
