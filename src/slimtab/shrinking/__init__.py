"""Shrinking tables that are trained already: of a run, of a TorchRec checkpoint, of any module.

``slimtab.shrink`` codes them, ``slimtab.restore`` and ``slimtab.load_shrunk`` read what the
command wrote.
"""
