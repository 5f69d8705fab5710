"""A Flower app of one's own with fedmarket's parts."""
