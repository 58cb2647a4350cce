"""A student as one file that draws by itself: seed and class or words in, pictures out.

The file holds the text encoder, the backbone, the decoder and where their noise comes from: torch's
generators cannot be written into a program, so `noise` makes numbers of the seed by integer
arithmetic, which gives the same ones wherever it runs. A `.pt2` file is a program of
`torch.export`, an `.onnx` file one for the many runtimes of ONNX.
"""
