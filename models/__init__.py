"""Networks in plain torch, one file each.

A model is built with its keys in conf/model. If its constructor has these parameters, it also gets `input_shape`, the
shape of one example, and `n_outputs`, the number of classes or the width of the target.
"""
