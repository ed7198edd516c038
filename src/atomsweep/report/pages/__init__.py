"""Reports as a whole, and their files: HTML, Markdown, CSV, LaTeX, results that are kept.

Nothing is computed here, and nothing is written outside of the folder that was asked for.
"""
