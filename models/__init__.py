"""Networks: one file each, plain torch.

A model is built with its keys of conf/model and, where its constructor has parameters of these names, with
`input_shape` (of one example) and `n_outputs` (classes, or width of the target).
"""
