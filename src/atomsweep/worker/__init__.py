"""What a job does: train the run of one directory, load what it trained, evaluate it.

It is told a directory and nothing else, and knows no plan and no scheduler; of
`sweep` it reads the settings of evaluations.
"""
