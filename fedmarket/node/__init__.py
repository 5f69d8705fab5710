"""What a partner runs: the long-lived process that holds rows, keys, budget and noise, and its door."""
