"""What the operator of a federation runs: a SuperLink that only the right ones reach, and runs on it."""
