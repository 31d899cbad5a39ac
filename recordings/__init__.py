"""Files of recordings: reading, checking and writing them."""

from recordings.writing import write_recording

__all__ = ["write_recording"]
