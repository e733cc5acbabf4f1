"""Graphs in other people's hands: one module or package for each way a graph is stored.

`native` is hubtool's own folder; `onnx`, `axon` and `transformers` are the worlds around it. They
do not import each other. Nothing is imported here, so that asking for one format loads that one.
"""
