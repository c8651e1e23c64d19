"""Triton kernels and their launchers: plain functions that allocate their outputs, with no autograd."""
