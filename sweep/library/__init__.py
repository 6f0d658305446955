"""The functions and result types of `import sweep`.

Each function turns its arguments into a plan, as the command line does with its own, and has `app` carry it out.
"""
