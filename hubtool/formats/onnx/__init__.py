"""The only door to `onnx`: reading ONNX safely, and writing it.

    file ──wire──▶ skeleton (no weights) ──worker: lift──▶ skeleton at opset 28 ──bind──▶ Graph
              └──▶ weights, mapped from the file itself or from its external data ──────────▲

wire.py      takes the weights out of the file's bytes without a protobuf parser, and writes them
external.py  opens external data under rules that no file can bend
lift.py      inlines functions, repairs, lifts to the pinned opset, infers shapes (onnx's C++)
old.py       rewrites models below opset 7; repair.py what onnx's converter gets wrong, with
             scan.py and withdrawn.py; walk.py is how they go through a model
worker.py    runs lift.py in a process with limits on time and memory
bind.py      ModelProto -> Graph: inputs by formal name, every default written out
read.py      the way from a file to a Graph; write.py the way back; lower.py picks the opset
sketch.py    writes look-alikes of the ONNX Model Zoo's ResNets
"""
