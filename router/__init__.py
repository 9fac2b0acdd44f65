"""Text in, expert and probabilities out: inference only, on numpy, ONNX Runtime and tokenizers.

Nothing here imports torch, Transformers or scikit-learn, so a router runs without them.
`load.load_router` opens the router of a bundle, `text` says what text of a request it reads.
"""
