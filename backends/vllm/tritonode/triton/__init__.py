"""What talks to Triton and to the host: responses, streams, metrics, control requests, progress."""
