"""What every result says about itself beside its numbers: assumptions, what is not protected."""

HYPERPARAMETERS = (
    "Rounds, clip norm, step size and shares are the experiment's public values; choosing them on private rows would "
    "spend privacy that is not accounted here"
)

GENERATOR_WORDS = {
    "operating-system": "Noise and sampling coins come from ChaCha20 under secret keys of the operating system.",
    "seeded-for-tests": "NOT PRIVATE: noise and sampling coins come from a seed, and protect nobody.",
}

ASSUMPTIONS = (
    "A customer is one row, or all rows of one value of the contract's customer column; one who is held by several "
    "parties spends the sum of their epsilons.",
    "Whether a customer is trained on or held out is fixed before the run and depends on nobody else: each one pays "
    "for its own releases alone.",
    "Party names, declared sizes, contract and configuration are public; neighbouring tables declare the same size.",
)

NOT_PROTECTED = (
    "That a company takes part, and about how many customers it has.",
    "What is true of customers in general: a good model reveals it, whether or not you are in the data.",
    "The model against a party that sends well-formed but poisoned updates.",
    "This report: its test metrics and row counts are computed without noise, by a researcher who holds the test rows.",
    "Timing, and a machine that leaks its memory.",
)

NOISE_ASSUMPTIONS = {
    "local": "Noise is a normal in double precision, rounded to a public grid; accounting treats it as a continuous "
    "normal. Each party's noise is enough alone.",
    "distributed": "Noise is discrete Gaussian on a public grid, and its distance from what is accounted is paid out "
    "of delta. Shares add up: the promise needs secure aggregation, and that no more parties than assumed leave out "
    "their noise or tell it.",
}

AGGREGATION_ASSUMPTIONS = {
    "secure": "The server colludes with fewer than a third of the parties: then it sees the sum of a round and nothing "
    "of one party's update. In this simulation one machine held every party's key.",
    "ideal": "Sums are made in the open, without masks, for research: the same bits as under secure aggregation. Where "
    "noise is shared, each party's epsilon is what it would be under secure aggregation.",
}

AGGREGATION_NOT_PROTECTED = {
    "secure": "A party's noisy update from a server together with a third of the parties or more, or with all the "
    "others in a sum: that party's own noise is then what protects its customers.",
    "ideal": "Each party's noisy update from the server: with secagg = ideal it is summed in the open, and protected "
    "by that party's own noise, or its own share of it, alone.",
}
