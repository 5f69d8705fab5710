"""Attacks carried out: on federations that are run again in memory, with what an observer of each kind would see."""
