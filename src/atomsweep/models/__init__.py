"""One file a model: a forward from a batch to a `Prediction`, with what is built in declared.

Models do not import one another, read no file, and know no task.
"""
