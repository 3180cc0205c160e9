"""Reproduce the rows of the paper: what a row needs, the job that trains it, and its result compared with the paper's.

Each file uses only files above it in this list:

==============  ===============================================================================
``rows``        a row of the paper as its config trains it
``job``         the command, or the batch script, that trains a row with a number of GPUs
``outcome``     AP and seconds per iteration of a run, from MMEngine's logs
``tables``      the list of rows, and results compared with the paper's
==============  ===============================================================================

The paper's figures come from :mod:`bucketed_losses.paper`.
"""
