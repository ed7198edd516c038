"""What a job does: train the run of one directory, load what it trained, evaluate it.

It is told a directory and nothing else, and knows no sweep, plan or scheduler.
"""
