"""The process: CPU affinity, threads and request time-outs."""
