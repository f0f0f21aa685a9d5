"""vLLM's engine in this process: its settings, its client, and what keeps requests from breaking it."""
