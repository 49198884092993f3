"""Machine-code census: what the compiler makes of every kernel, for GPUs that need not be there."""
