"""The reward server: scores medical answers by rules that can be verified, over HTTP, on any CPU node.

`client` and `process` are the training side's doors; neither imports FastAPI or a verifier. No module imports torch.
"""
