"""Files of recordings: reading, checking, converting and writing them."""

from recordings.binning import from_spike_times
from recordings.splitting import overlap_groups
from recordings.writing import write_recording

__all__ = ["from_spike_times", "overlap_groups", "write_recording"]
