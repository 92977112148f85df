"""Late work, for nbgrader: so many days a term cost nothing, each further one takes a part of the score.

In nbgrader_config.py:

    c.AssignLatePenalties.plugin_class = "peftlab.classroom.late.LateDays"
    c.LateDays.free_days = 4
    c.LateDays.per_day = 0.1
"""

import math

from nbgrader.plugins import LateSubmissionPlugin
from traitlets import Float, Int

DAY = 86_400  # seconds


class LateDays(LateSubmissionPlugin):
    """Days begun count whole. Free days go to the assignments in the order in which they were due."""

    free_days = Int(0, help="Late days of a student in the whole course that cost nothing.").tag(config=True)
    per_day = Float(0.1, help="The part of the score that each further late day takes.").tag(config=True)

    def late_submission_penalty(self, student_id, score, total_seconds_late):
        """Points to take off a submission, from nothing to all of its score."""
        book, name = self.parent.gradebook, self.parent.assignment_id
        due = book.find_assignment(name).duedate
        earlier = sum(
            _days(s.total_seconds_late)
            for s in book.student_submissions(student_id)
            if s.duedate is not None and s.name != name and (s.assignment.duedate, s.name) < (due, name)
        )
        charged = max(0, _days(total_seconds_late) - max(0, self.free_days - earlier))
        return min(score, score * self.per_day * charged)


def _days(seconds):
    return math.ceil(seconds / DAY)
