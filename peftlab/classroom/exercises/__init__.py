"""One file per lesson. Adding an exercise or a slip is one function: see `peftlab/classroom/exercise.py`."""
