"""Repair a wrong command line: the hint for it is the whole line that was meant."""
