"""Format ``onnx``: the computation, with weights as indices into one codebook."""
