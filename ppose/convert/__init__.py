"""Weights of other projects, under the names of ppose's networks."""
