"""hubtool's own engine for CPUs: C++ kernels, run by plans that are made here.

    backend    what `hubtool.backends` asks of a backend
    library    the one door to the C++ library (`engine/`), which need not be there
    split      which layers the engine runs; the others stay with numpy
    lower      a part of the graph, for known shapes, as steps over views of memory
    tune       how each layer is done, chosen by timing
    kept       plans and packed weights on disk, for the next start
    runner     all of it, when a model is run

What has no kernel, or is no float32, runs in numpy, to the bit as the numpy backend does, and
`notes` names it.
"""
