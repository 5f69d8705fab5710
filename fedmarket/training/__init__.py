"""What a party computes over its own rows: noisy sums, each of one mechanism of the plan."""
