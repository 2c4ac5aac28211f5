"""A check before a long training: hosts, network, storage, programs, and what the run will take."""
