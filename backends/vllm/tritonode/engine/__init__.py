"""vLLM's engine in this process: its settings, its client, and checks that keep requests from breaking it."""
