"""DataFrames → cells, verdicts and grids of text: all arithmetic of a report, and all its words.

It reads no files, draws nothing, and knows neither HTML nor reports as a whole.
"""
