"""What an experiment compares (arms) and on which rows (market): the same federation, told apart by its terms."""
