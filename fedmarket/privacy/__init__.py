"""What is promised and spent: one plan yields clip, noise, sampling and the events that are accounted."""
