"""A student as a `torch.export` program: backbone and decoder in one file that needs only torch.

The program draws nothing itself. Initial tokens, condition and noise are its inputs, so that the
same inputs give the same images wherever it runs; the JSON beside it says how they are made. The
text encoder of a text student stays outside: its output is an input, and what it makes of the
prompts that are given is saved beside the program.
"""
