"""What the program is for: the real sizes on one card, each as a row of asked and got.

`--tiny` runs the very same code on the CPU, at sizes of a few thousand weights: its numbers say
nothing, but what is broken breaks there.
"""
