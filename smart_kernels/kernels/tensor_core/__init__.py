"""2:4 on sparse tensor cores. The face exports nothing: the products are Gluon, which not every triton can import."""
