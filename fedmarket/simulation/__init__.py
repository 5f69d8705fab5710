"""An experiment in one go: every arm for every seed through the same two apps, and the results as one document."""
